"""How the files of a dataset lie in its folder, a module for each layout: `splits(root)` and `find(root, split)`."""
