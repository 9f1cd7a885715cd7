"""The package's extras: what is said where a dependency that only some need is missing."""


class MissingExtraError(ImportError):
    """A module is not installed that comes with an extra of the package; its text is the line that installs it."""


def missing_extra(work: str, extra: str, missing: ImportError | str) -> MissingExtraError:
    """What to raise.

    Args:
        work: What cannot be done, as the subject of a sentence.
        extra: The extra that the module comes with.
        missing: The module, or what importing it raised.
    """
    module = missing if isinstance(missing, str) else missing.name or str(missing)
    install = f"pip install 'pspnet-zoo[{extra}]', or '.[{extra}]' in a clone"
    return MissingExtraError(f"{work} needs {module}, which is not installed; install the extra: {install}")
