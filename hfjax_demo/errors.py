"""Every error a user of this project can meet, as one tree.

    HfJaxDemoError
    ├── InvalidRequestError          a field of a request breaks a rule
    │   └── CapacityError            the tokens do not fit the cache or the model's context
    ├── ModelNotFoundError           no such catalog name, Hub id, folder or file
    ├── UnsupportedModelError        there, but not a model this project can run safely
    ├── ModelLoadError               its files are damaged or do not belong together
    ├── HubUnreachableError          the Hugging Face Hub did not answer
    ├── InsufficientMemoryError      the weights do not fit into memory
    ├── StorageError                 a model file could not be written
    │   └── DiskFullError            because the disk is full
    ├── DeviceError                  the devices or the mesh asked for cannot be had
    ├── ClusterError                 the processes that should form one mesh do not meet, differ, or one is gone
    ├── RequestStoppedError          stopped while it waited or while its model was loading
    └── EngineClosedError            the engine is shutting down

A message is one line and says three things: the rule, the numbers, a way out. Only the command line and the page's
handlers turn it into what a person sees. This module knows nothing of the rest of the package.
"""


def readable_bytes(num_bytes: float) -> str:
    """A size as messages write it: "0.54 MB", "3.10 GB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


class HfJaxDemoError(Exception):
    """Base of every expected failure; `str(error)` is fit to be shown to the user as it is."""


class InvalidRequestError(HfJaxDemoError):
    """A field of a request breaks a rule that the message states.

    Attributes:
        field: name of the offending `GenerationRequest` field, for faces that show errors beside their cause.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CapacityError(InvalidRequestError):
    """Prompt and new tokens need more positions than the cache or the model's context has."""


class ModelNotFoundError(HfJaxDemoError):
    """The model, or a file it needs, is not where the request says."""


class UnsupportedModelError(HfJaxDemoError):
    """The model exists, but is no causal language model, needs unpickling, or has a state we cannot keep."""


class ModelLoadError(HfJaxDemoError):
    """The model's files are damaged, incomplete or do not belong together."""


class HubUnreachableError(HfJaxDemoError):
    """The Hugging Face Hub did not answer and the model is not in the local cache."""


class InsufficientMemoryError(HfJaxDemoError):
    """The weights need more memory than is free."""


class StorageError(HfJaxDemoError):
    """A model file could not be written where it belongs."""


class DiskFullError(StorageError):
    """A model file could not be written because the disk is full."""


class DeviceError(HfJaxDemoError):
    """The device count or the mesh asked for cannot be had in this process."""


class ClusterError(HfJaxDemoError):
    """Processes that should form one mesh do not meet or differ, or one of them is gone."""


class RequestStoppedError(HfJaxDemoError):
    """The request was stopped before it had a first token, so there is no run to record."""


class EngineClosedError(HfJaxDemoError):
    """The engine was closed; it takes no more requests."""
