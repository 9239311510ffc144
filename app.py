"""Entry point of the Space and of `make run`: settings, engine, page."""

import argparse

from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.settings import Settings
from hfjax_demo.ui.serve import serve


def main() -> None:
    """Reads the flags, starts the engine and serves the page until it is told to stop."""
    parser = argparse.ArgumentParser(description="Hugging Face models on JAX through torchax, made visible: the page.")
    parser.add_argument("--host", help="address to listen on; default 127.0.0.1, or GRADIO_SERVER_NAME")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860, or GRADIO_SERVER_PORT")
    parser.add_argument("--root-path", help="path prefix behind a proxy")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's own service")
    parser.add_argument("--devices", type=int, metavar="D", help="virtual CPU devices; default: one per core")
    flags = parser.parse_args()
    with InferenceEngine(Settings.from_environment(devices=flags.devices)) as engine:
        serve(engine, server_name=flags.host, server_port=flags.port, root_path=flags.root_path, share=flags.share)


if __name__ == "__main__":
    main()
