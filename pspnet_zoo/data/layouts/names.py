"""The names of the layouts that datasets can have; each is a module beside this one."""

LAYOUTS = ("camvid", "cityscapes", "folder")
