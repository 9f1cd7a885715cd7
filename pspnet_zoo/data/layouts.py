"""The names of the layouts that data sets can have; each is a module beside this one."""

LAYOUTS = ("camvid", "cityscapes", "folder")
