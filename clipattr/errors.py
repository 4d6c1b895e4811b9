"""Error classes that callers can catch, one per room.

Owns the classes only. Each message states what was asked, what was given, and what to do; it is written by the code
that finds the fault. Start at `ClipattrError`, the base class of all of them; each is also a `ValueError`.
"""


class ClipattrError(Exception):
    """Base class of the errors that this package raises on purpose."""


class ModelError(ClipattrError, ValueError):
    """A model or its weights could not be found, read, or used as requested."""


class SiteError(ClipattrError, ValueError):
    """A site is misspelt, does not exist in this model, or was given a tensor of the wrong shape."""


class DataError(ClipattrError, ValueError):
    """Pictures, vocabularies or stored activations are missing, damaged, or do not match each other."""


class StudyError(ClipattrError, ValueError):
    """A study folder is incomplete, damaged, or was built with another model."""


class DictionaryError(ClipattrError, ValueError):
    """A dictionary file or its settings cannot be used."""


class TargetError(ClipattrError, ValueError):
    """A target cannot be interpreted or attributed."""
