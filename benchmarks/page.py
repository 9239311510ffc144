"""What the page costs: tokens per second as Chromium shows them against the engine's alone, in turns, in one process.

    python -m benchmarks.page [--rounds N --new-tokens N]

A visitor's browser works on a machine of its own: here it gets only the time that nothing else wants (`SCHED_IDLE`). What is
measured is what the server's page takes from decoding. Needs Chromium and Playwright (`make bench` installs them).
"""

import argparse
import contextlib
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks import measuring
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.permalink import encode_permalink
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.serve import launch

PROMPT = "The secret to baking a good cake is"
EXPECTED_RATIO = 0.9
POLLING_MS = 500
"""How often the page is asked whether the run is over. At every frame, as is usual, the asking alone would take a tenth."""
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Notes when the text on the page changes; the first change is the first token, the last one the last.
WATCH_TEXT = """() => {
  const text = document.querySelector("#run .run-text");
  window.textWatcher?.disconnect();
  window.textWatcher = new MutationObserver(() => { if (text.textContent) window.seenAt.push(performance.now()); });
  window.textWatcher.observe(text, { childList: true, characterData: true, subtree: true });
  window.seenAt = [];
}"""


@dataclass(frozen=True)
class Round:
    """One round, tokens per second: the engine alone, before and after, and between as the browser saw them.

    Attributes:
        alone: mean of both.
        seen: from the first change of the text on the page to the last.
        num_updates: changes of the text.
    """

    alone: float
    seen: float
    num_updates: int

    @property
    def ratio(self) -> float:
        """What is left of the engine's speed when someone watches."""
        return self.seen / self.alone


def measure(options: argparse.Namespace) -> list[Round]:
    """Serves the real page over one engine and runs the rounds."""
    request = GenerationRequest(PROMPT, max_new_tokens=options.new_tokens, ignore_eos=True)
    with InferenceEngine(Settings.from_environment()) as engine, sync_playwright() as playwright:
        demo = launch(engine, server_name="127.0.0.1")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.goto(f"{demo.local_url}?{encode_permalink(request)}&ignore_eos=1")
        page.wait_for_selector('#run .run[data-phase="done"]')
        _give_way()
        engine.generate(request)  # compiles
        _see(page, options.new_tokens)  # and Chromium gets ready
        rounds = [_round(engine, request, page, options.new_tokens) for _ in range(options.rounds)]
        browser.close()
        demo.close()
    return rounds


def _round(engine: InferenceEngine, request: GenerationRequest, page: Page, num_tokens: int) -> Round:
    before = _alone(engine, request)
    seen_at = _see(page, num_tokens)
    alone = statistics.mean([before, _alone(engine, request)])
    return Round(alone, 1000 * (num_tokens - 1) / (seen_at[-1] - seen_at[0]), len(seen_at))


def _alone(engine: InferenceEngine, request: GenerationRequest) -> float:
    steps = engine.generate(request).steps[1:]
    return len(steps) / sum(step.duration_s for step in steps)


def _see(page: Page, num_tokens: int) -> list[float]:
    """Generates by a click; the milliseconds at which the text on the page changed."""
    page.evaluate(WATCH_TEXT)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        f"document.querySelector('#run .run-status-text').textContent.startsWith('done: {num_tokens} ')"
        " && window.seenAt.length > 1",
        timeout=120_000,
        polling=POLLING_MS,
    )
    seen_at: list[float] = page.evaluate("window.seenAt")
    return seen_at


def _give_way() -> None:
    """Lets the browser have only the time that nobody else wants: every thread of it, and so every one it starts later."""
    for process in psutil.Process().children(recursive=True):
        if "chrom" in process.name():
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))


def report(rounds: list[Round], facts: dict[str, Any], load_average: float) -> str:
    """The figures with their conditions, and whether the expectation held."""
    ratio = statistics.median(each.ratio for each in rounds)
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += [
        f"load average at the start: {load_average:.2f}",
        "",
        "| round | engine alone, tokens/s | seen in the browser | ratio | updates |",
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for number, each in enumerate(rounds, 1):
        lines.append(f"| {number} | {each.alone:.1f} | {each.seen:.1f} | {each.ratio:.2f} | {each.num_updates} |")
    verdict = "holds" if ratio >= EXPECTED_RATIO else "DOES NOT HOLD"
    lines += ["", f"median ratio {ratio:.2f}; expected at least {EXPECTED_RATIO}: {verdict}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=96, metavar="N")
    options = parser.parse_args(arguments)
    facts, load_average = measuring.conditions(), os.getloadavg()[0]
    print(report(measure(options), facts, load_average))
    return 0


if __name__ == "__main__":
    sys.exit(main())
