"""The command `pspnet-zoo`."""
