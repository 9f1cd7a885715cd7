"""`python -m pspnet_zoo.cli`, as torchrun starts it."""

from .app import main

if __name__ == "__main__":
    main()
