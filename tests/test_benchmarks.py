"""The benchmarks run, compare the same tokens and compute their figures rightly. No time is asserted: they measure it."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import article, decode, decode_report, jax_runs, llama_shape, measuring, mesh, torch_peer
from benchmarks.measuring import Spread, StepTime, TimedRun

ROOT = Path(__file__).parent.parent
BUILT = TimedRun((5, 6, 7), (StepTime(1.0, 0.25, 0.5, 2), StepTime(2.0, 0.5, 1.0, 1), StepTime(0.5)))


def run_at(tokens_per_s, token_ids=(1, 2, 3)):
    return TimedRun(token_ids, (StepTime(1.0), StepTime((len(token_ids) - 1) / tokens_per_s)))


def measurement(**speeds):
    """Two rounds in which every path is as fast as plain torch's, except as given; the second round at half speed."""
    names = {"jit": decode_report.JIT, "eager_cold": decode_report.EAGER_GROWING + decode_report.COLD}
    paths = (*decode_report.WARM_PATHS, *names.values(), decode_report.EAGER_FIXED + decode_report.COLD)
    per_path = dict.fromkeys(paths, 10.0) | {names[name]: value for name, value in speeds.items()}
    rounds = [
        decode_report.Round(20.0 * drift, {path: run_at(speed * drift) for path, speed in per_path.items()})
        for drift in (1.0, 0.5)
    ]
    return decode_report.Measurement({"model": "none"}, 0.0, 10**9, 1.5, run_at(30.0), rounds)


@pytest.fixture(scope="module")
def small_model():
    return llama_shape.make_model(llama_shape.SHAPES["small"], prompt_len=8, num_tokens=24)


@pytest.fixture(scope="module")
def article_table(tmp_path_factory):
    """The command's table as row name -> column name -> cell, and everything it printed."""
    out = tmp_path_factory.mktemp("article") / "report.md"
    arguments = ["--shape", "small", "--new-tokens", "6", "--eager-new-tokens", "2", "--rounds", "1", "--out", str(out)]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.article", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert out.read_text().strip() == finished.stdout.strip()
    lines = [line for line in finished.stdout.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}, finished.stdout


def test_article_has_every_row_with_positive_figures(article_table):
    rows, _ = article_table
    assert tuple(rows) == article.ROWS
    for row in rows.values():
        for column in ("here, s", "prefill, ms", "decode, tokens/s"):
            assert float(row[column].split()[0].replace(",", "")) > 0


def test_article_rows_make_the_same_tokens_in_float32(article_table):
    rows, _ = article_table
    wanted = {name: "2 of 2" if name.startswith("eager") else "6 of 6" for name in article.ROWS}
    assert {name: row["tokens as jit's"] for name, row in rows.items()} == wanted


def test_article_counts_compilations_where_they_happen(article_table):
    """Cold rows compile, warm rows must not: else the warm figures would hold compilations."""
    rows, _ = article_table
    cold = {article.EAGER_GROWING, article.EAGER_FIXED, article.JIT_COLD}
    assert {name for name, row in rows.items() if row["compilations"] != "0"} == cold
    assert rows[article.JIT_COLD]["compilations"] == "2"


def test_article_on_a_cpu_says_that_the_gpu_row_is_open(article_table):
    rows, text = article_table
    assert "GPU ROW OPEN" in text
    assert {row["article, s"] for row in rows.values()} == {""}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="refuses on a CPU only")
def test_article_refuses_the_big_shape_on_a_cpu(capsys):
    assert article.main([]) == 2
    assert "--shape small" in capsys.readouterr().err


def test_random_small_model_does_not_repeat_itself(small_model):
    """Equal tokens prove nothing where a model says one token forever."""
    twin = llama_shape.torch_twin(small_model)
    growing = torch_peer.timed_loop(twin, small_model.prompt_ids, 24, None)
    fixed = torch_peer.timed_loop(twin, small_model.prompt_ids, 24, small_model.capacity)
    ahead = torch_peer.timed_loop(twin, small_model.prompt_ids, 24, None, fetch_each=False)
    assert growing.token_ids == fixed.token_ids == ahead.token_ids
    assert len(set(growing.token_ids)) > 8
    torch_peer.never_stop(twin)
    generated = torch_peer.timed_generate(twin, small_model.prompt_ids, 24)
    assert generated.token_ids == growing.token_ids
    assert len(generated.steps) == len(growing.steps) == 24
    assert len(ahead.steps) == 2


def test_a_run_ends_at_its_time_limit_with_what_it_made(small_model):
    """The first token always comes, so that a row has something to say."""

    def step(_weights, cache, *_):
        return jnp.asarray([3]), cache

    steps = jax_runs.Steps(step, step)
    assert jax_runs.timed_run(small_model, steps, False, 5, limit_s=1e-9).token_ids == (3,)
    assert jax_runs.timed_run(small_model, steps, False, 5, limit_s=100.0).token_ids == (3,) * 5


def test_weights_read_per_token_leave_out_a_separate_input_embedding(small_model):
    module = small_model.causal_lm.module
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    everything = sum(parameter.numel() * 4 for parameter in module.parameters())
    assert torch_peer.weight_bytes_per_token(module) == everything - 256 * 64 * 4
    tied = llama_shape.torch_twin(small_model)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert torch_peer.weight_bytes_per_token(tied) == everything - 256 * 64 * 4  # one tensor fewer, all of it read
    assert embedding is not head


def test_building_programs_is_apart_from_running_them():
    assert BUILT.prefill_s == pytest.approx(0.25)
    assert BUILT.tokens_per_s == pytest.approx(2 / 1.0)
    assert BUILT.tokens_per_s_with_compile == pytest.approx(2 / 2.5)
    assert (BUILT.trace_s, BUILT.compile_s, BUILT.num_compiles, BUILT.total_s) == (0.75, 1.5, 3, 3.5)
    assert TimedRun((5,), (StepTime(1.0),)).tokens_per_s == 0


def test_ratios_are_taken_within_a_round():
    """A machine twice as slow in one round leaves them alone; the ratio of medians would not be 2 here."""
    assert measuring.pairwise_ratio([10, 4, 2], [5, 2, 1]) == Spread(2, 2, 2)
    assert measuring.spread([3, 1, 2, 10]) == Spread(2.5, 1, 10)
    with pytest.raises(ValueError, match="zip"):
        measuring.pairwise_ratio([1, 2], [1])


@pytest.mark.parametrize(
    ("spread", "text"),
    [(Spread(2.0, 1.5, 1234.56), "2.0 (1.5–1,234.6)"), (Spread(2.0, 2.0, 2.01), "2.0"), (Spread(0, 0, 0), "0.0")],
)
def test_spreads_read_as_median_and_range(spread, text):
    assert spread.text() == text


@pytest.mark.parametrize(
    ("tokens", "reference", "agreeing"), [((1, 2, 3), (1, 2, 3, 4), 3), ((1, 9, 3), (1, 2, 3), 1), ((), (1,), 0)]
)
def test_agreeing_len_counts_to_the_first_difference(tokens, reference, agreeing):
    assert measuring.agreeing_len(tokens, reference) == agreeing


def test_tables_are_markdown_with_even_columns():
    table = measuring.markdown_table(("path", "n"), [("a", "10"), ("long", "7")])
    assert table.splitlines() == ["| path |  n |", "|------|---:|", "| a    | 10 |", "| long |  7 |"]


def test_bandwidths_are_positive():
    assert measuring.host_read_gb_per_s(2**20, repeats=1) > 0
    assert all(value > 0 for value in measuring.device_gb_per_s(2**20, repeats=1).values())


def test_verdicts_compare_within_rounds_and_say_what_does_not_hold():
    holds = decode_report.verdicts(measurement(jit=30.0, eager_cold=1.0))
    assert [line.partition(":")[0] for line in holds] == ["holds", "holds"]
    assert "30.00, expected at least 20" in holds[1]
    fails = decode_report.verdicts(measurement(jit=9.0, eager_cold=1.0))
    assert [line.partition(":")[0] for line in fails] == ["does not hold", "does not hold"]
    assert "0.90, expected at least 1" in fails[0]


def test_decode_report_names_the_paths_whose_tokens_differ():
    measured = measurement()
    assert "tokens identical: yes" in decode_report.report(measured)
    measured.rounds[1].runs[decode_report.GENERATE] = run_at(10.0, (1, 9))
    assert f"tokens identical: no: {decode_report.GENERATE}" in decode_report.report(measured)


def test_article_tokens_agree_as_far_as_both_go():
    runs = {article.JIT_COLD: [run_at(1, (1, 2, 3))], article.EAGER_FIXED: [run_at(1, (1, 2))]}
    assert article.all_tokens_agree(runs)
    runs[article.TORCH_FIXED] = [run_at(1, (1, 2, 3)), run_at(1, (1, 2, 4))]
    assert not article.all_tokens_agree(runs)


def mesh_measurement(tokens=(1, 2, 3), kv=50):
    """Sizes 1 and 2, the second at half the speed, with the given tokens in one round and bytes of cache on a device."""
    whole, part = mesh.DeviceBytes(1000, 1000, 100, 100), mesh.DeviceBytes(500, 500, kv, 50)
    return mesh.Measurement(
        {"model": "none"},
        0.0,
        "cpu",
        [
            mesh.SizeMeasurement(1, whole, "", run_at(8.0), [run_at(10.0), run_at(5.0)]),
            mesh.SizeMeasurement(2, part, "4 all-reduce 1 kB", run_at(4.0), [run_at(5.0), run_at(2.5, tokens)]),
        ],
    )


def test_mesh_runs_every_size_and_finds_tokens_and_bytes_as_they_should_be(tiny_llama, capsys):
    assert mesh.main(["--model", tiny_llama, "--sizes", "1,2", "--rounds", "1", "--new-tokens", "4"]) == 0
    text = capsys.readouterr().out
    assert "tokens identical: yes" in text
    assert "bytes as planned: yes, to the byte" in text
    assert "share the CPU's cores" in text or jax.default_backend() != "cpu"
    lines = [line for line in text.splitlines() if line.startswith(("| 1", "| 2"))]
    one, two, bytes_of_one, bytes_of_two = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert one[3:] == ["", "1.00"]
    assert "all-reduce" in two[3]
    assert min(float(row[2].replace(",", "")) for row in (one, two)) > 0
    assert (bytes_of_one[3:], bytes_of_two[3:]) == (["0.131"] * 2, ["0.066"] * 2)  # 2 KV heads: split in half


def test_mesh_report_takes_ratios_within_a_round_and_names_what_differs():
    text = mesh.report(mesh_measurement())
    assert "| 2    |" in text
    assert "0.50 |" in text
    assert "tokens identical: yes\nbytes as planned: yes" in text
    differing = mesh.report(mesh_measurement(tokens=(1, 2, 4)))
    assert "tokens identical: no: size 2\nbytes as planned: yes" in differing
    misplanned = mesh.report(mesh_measurement(kv=51))
    assert "tokens identical: yes\nbytes as planned: no: size 2" in misplanned


@pytest.mark.parametrize("sizes", ["0,2", "2,2", "two", ""])
def test_nonsense_sizes_of_a_mesh_are_refused(sizes, capsys):
    with pytest.raises(SystemExit):
        mesh.parse(["--sizes", sizes])
    assert "--sizes" in capsys.readouterr().err


def test_nonsense_token_counts_are_refused(capsys):
    with pytest.raises(SystemExit):
        decode.parse(["--eager-new-tokens", "1"])
    assert "--eager-new-tokens" in capsys.readouterr().err
