"""The error where an optional dependency is missing: it says which extra of the package to install."""


class MissingExtraError(ImportError):
    """An optional module is not installed; the message ends with the line that installs its extra."""


def missing_extra(work: str, extra: str, missing: ImportError | str) -> MissingExtraError:
    """The error to raise where a module of an extra cannot be imported.

    Args:
        work: What cannot be done, as the subject of a sentence.
        extra: The extra that the module comes with.
        missing: The module, or what importing it raised.
    """
    module = missing if isinstance(missing, str) else missing.name or str(missing)
    # the package is on no index before its first release
    install = f"pip install -e '.[{extra}]'"
    return MissingExtraError(
        f"{work} needs {module}, which is not installed. Install the extra, in a clone of the project: {install}"
    )
