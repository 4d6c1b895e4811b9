"""The errors callers can catch, one per room.

Owns the classes only. Every message says what was asked, what came instead, and what to do; the place that
finds the fault writes it. Start at `ClipattrError`: catching it catches all of them, and each is a
`ValueError` too.
"""


class ClipattrError(Exception):
    """Any fault that this package reports on purpose."""


class ModelError(ClipattrError, ValueError):
    """A model or its weights could not be found, read, or used for what was asked."""


class SiteError(ClipattrError, ValueError):
    """A site is misspelt, does not exist in this model, or got a tensor that does not fit it."""


class DataError(ClipattrError, ValueError):
    """Pictures, vocabularies or stored activations are missing, broken, or do not belong together."""


class StudyError(ClipattrError, ValueError):
    """A study folder is incomplete, damaged, or was built with another model."""


class DictionaryError(ClipattrError, ValueError):
    """A dictionary file or its settings cannot be used."""


class TargetError(ClipattrError, ValueError):
    """A target cannot be read as something to attribute."""
