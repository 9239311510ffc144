"""The flags that every way to start the engine takes, and the settings they make.

Knows nothing of what is started.
"""

import argparse

from hfjax_demo.settings import Settings


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Devices, and the processes that form one mesh."""
    parser.add_argument("--devices", type=whole_number, metavar="D", help="virtual CPU devices; default: one per core")
    group = parser.add_argument_group("one mesh over several processes, each started with the same flags but its own id")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    group.add_argument("--num-processes", type=whole_number, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=whole_number, metavar="I", help="which this is, from 0; process 0 serves")


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings of the environment's variables and these flags; flags win.

    Raises:
        InvalidRequestError: one of them breaks its rule.
    """
    names = ("devices", "coordinator", "num_processes", "process_id")
    return Settings.from_environment(**{name: getattr(options, name) for name in names})


def whole_number(text: str) -> int:
    """A flag's value as an int, for argparse."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number but is {text!r}") from None
