"""The network: `pspnet.py` is the paper's figure as code."""
