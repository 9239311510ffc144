"""Entry point of the Space and of `make run`: settings, engine, page."""

import argparse
import sys

from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.flags import add_engine_flags, settings_from
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.inference.follower import follow
from hfjax_demo.ui.serve import serve


def main() -> None:
    """Reads the flags, starts the engine and serves the page until it is told to stop; other processes follow process 0."""
    parser = argparse.ArgumentParser(description="Hugging Face models on JAX through torchax, made visible: the page.")
    parser.add_argument("--host", help="address to listen on; default 127.0.0.1, or GRADIO_SERVER_NAME")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860, or GRADIO_SERVER_PORT")
    parser.add_argument("--root-path", help="path prefix behind a proxy")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's own service")
    add_engine_flags(parser)
    flags = parser.parse_args()
    settings = settings_from(flags)
    if settings.process_id > 0:
        follow(settings)
        return
    with InferenceEngine(settings) as engine:
        serve(engine, server_name=flags.host, server_port=flags.port, root_path=flags.root_path, share=flags.share)


if __name__ == "__main__":
    try:
        main()
    except HfJaxDemoError as err:
        sys.stderr.write(f"error: {err}\n")
        sys.exit(2)
