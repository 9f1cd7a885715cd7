"""The layouts of files in the folder of a dataset, a module for each layout: `splits(root)` and `find(root, split)`."""
