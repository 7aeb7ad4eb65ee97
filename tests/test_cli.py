"""The command line, as a user meets it: in its own process where that matters, wrong input in one clear line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tinygrad_tfm import checkpoint
from tinygrad_tfm.cli import main
from tinygrad_tfm.runs import Run

TINY = ["--steps", "20", "--batch", "4", "--context", "16", "--layers", "1", "--heads", "2", "--width", "16",
        "--workers", "1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "toy.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(400)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """A run made by the command itself, in its own process, and what that printed."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    done = tinygrad_tfm("train", "--text", str(text), "--out", str(out), "--json", *TINY)
    assert done.returncode == 0, done.stderr
    return out, done


def tinygrad_tfm(*arguments, **kwargs):
    return subprocess.run([sys.executable, "-m", "tinygrad_tfm", *arguments], capture_output=True, text=True,
                          encoding="utf-8", timeout=120, **kwargs)


def wait_for_steps(process, out):
    waited = time.monotonic()
    while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").read_text().count('"train"') < 5:
        assert process.poll() is None and time.monotonic() - waited < 60
        time.sleep(0.05)


def refused(capsys, *arguments):
    """The one line on stderr of a command that must fail with exit code 2."""
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


def test_train_writes_a_run_and_says_how_it_went(trained):
    out, done = trained
    assert {p.name for p in out.iterdir()} == {"checkpoint.safetensors", "resume.safetensors", "metrics.jsonl",
                                               "samples.txt", "loss.png", "step-2.safetensors", "step-6.safetensors"}
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"steps", "parameters", "val_loss", "best_val_loss", "tokens_per_s", "elapsed_s", "device",
            "corpus"} <= result.keys()
    assert result["steps"] == 20 and result["device"] == "cpu"
    assert "estimated time" in done.stdout and "bigram" in done.stdout and f"sample {out}" in done.stdout


def test_sample_streams_the_same_text_for_the_same_seed(trained):
    out, _ = trained
    done = [tinygrad_tfm("sample", str(out), "--prompt", "12 ", "--count", "40", "--seed", "1", "--json")
            for _ in range(2)]
    assert done[0].returncode == 0 and done[0].stdout == done[1].stdout
    result = json.loads(done[0].stdout.splitlines()[-1])
    assert len(result["text"]) == 40 and done[0].stdout.startswith("12 " + result["text"])


def test_ctrl_c_saves_and_the_line_it_prints_resumes(text, tmp_path):
    out = tmp_path / "long"
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_tfm", "train", "--text", str(text), "--out", str(out),
                                *TINY, "--steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(process, out)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    line = next(line for line in stdout.splitlines() if "--resume" in line)
    assert f"train --resume --out {out}" in line
    steps = checkpoint.read(out / "resume.safetensors")[1]["progress"]["step"]
    done = tinygrad_tfm("train", "--resume", "--out", str(out), "--stop-at", str(steps + 3), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == steps + 3


def test_resume_keeps_the_settings_of_the_run(trained, capsys):
    out, _ = trained
    assert "--width" in refused(capsys, "train", "--resume", "--out", str(out), "--width", "32")
    assert "--out" in refused(capsys, "train", "--resume")


@pytest.mark.parametrize("content, word", [(b"", "empty"), (b"aaaaaaaaaaaa", "one"), (b"short text", "context"),
                                           (b"caf\xe9 " * 99, "UTF-8")])
def test_a_text_that_cannot_be_trained_on(content, word, tmp_path, capsys):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    line = refused(capsys, "train", "--text", str(path), "--out", str(tmp_path / "run"))
    assert word in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("options, word", [
    (["--heads", "5"], "not divisible by 5 heads"), (["--context", "0"], "context"), (["--layers", "-1"], "layers"),
    (["--lr", "nan"], "lr"), (["--lr", "-1"], "lr"), (["--lr", "inf"], "lr"), (["--steps", "0"], "steps"),
    (["--batch", "0"], "batch"), (["--dropout", "nan"], "dropout"), (["--dropout", "1"], "dropout"),
    (["--device", "cuda"], "CuPy"), (["--device", "tpu"], "tpu"), (["--seed", "-4"], "seed"),
    (["--workers", "0"], "workers")])
def test_options_that_cannot_be(options, word, text, tmp_path, capsys):
    line = refused(capsys, "train", "--text", str(text), "--out", str(tmp_path / "run"), *options)
    assert word in line and not (tmp_path / "run").exists()


def test_a_missing_text_and_an_unknown_corpus(tmp_path, capsys):
    assert "nowhere.txt" in refused(capsys, "train", "--text", str(tmp_path / "nowhere.txt"))
    line = refused(capsys, "train", "--corpus", "shakespear", "--out", str(tmp_path / "run"))
    assert "shakespear" in line and "python-docs" in line


def test_a_run_directory_that_exists_is_left_alone(text, trained, capsys):
    out, _ = trained
    before = {p: p.read_bytes() for p in out.iterdir()}
    line = refused(capsys, "train", "--text", str(text), "--out", str(out), *TINY)
    assert "--resume" in line and {p: p.read_bytes() for p in out.iterdir()} == before


def test_a_truncated_a_foreign_and_a_missing_checkpoint(trained, tmp_path, capsys):
    out, _ = trained
    whole = (out / "checkpoint.safetensors").read_bytes()
    for name, content in (("cut", whole[:len(whole) // 2]), ("foreign", b"PK\x03\x04" * 99), ("empty", b"")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        assert "no readable checkpoint" in refused(capsys, "sample", str(path))
    import numpy as np
    import safetensors.numpy
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    assert "not a checkpoint of this program" in refused(capsys, "sample", str(tmp_path / "other.safetensors"))
    assert "train first" in refused(capsys, "sample", str(tmp_path / "nothing"))


@pytest.mark.parametrize("options, word", [
    (["--prompt", "Ω is unseen"], "'Ω'"), (["--temperature", "-1"], "temperature"), (["--temperature", "nan"], "temp"),
    (["--top-k", "0"], "top_k"), (["--top-p", "2"], "top_p"), (["--count", "0"], "count"), (["--seed", "-1"], "seed")])
def test_wrong_ways_to_sample(options, word, trained, capsys):
    assert word in refused(capsys, "sample", str(trained[0]), *options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is imitated with /dev/full, which Linux has")
def test_a_full_disk_is_an_error_of_its_own(text, tmp_path):
    out = tmp_path / "run"
    code = ("import tinygrad_tfm.files as c, os, sys, tinygrad_tfm.cli as cli\n"
            "real = c.os.fsync\n"
            "c.os.fsync = lambda fd: os.write(os.open('/dev/full', os.O_WRONLY), b'x')\n"
            "sys.exit(cli.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "train", "--text", str(text), "--out", str(out), *TINY],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: No space left")
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize("command", ["train", "sample", "doctor", "bench"])
def test_every_command_has_help_with_an_example_and_json(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and f"example: python -m tinygrad_tfm {command}" in text and "--json" in text


def test_doctor_and_bench_report_in_json(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)                     # its start alone would take seconds
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["cores"] >= 1
    assert main(["bench", "--suite", "ops", "--repeat", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ops"]["us_per_op"] > 0


def test_a_stream_that_lacks_a_letter_gets_its_number(text, tmp_path):
    path = tmp_path / "greek.txt"
    path.write_text("αβγδε ωψχφ\n" * 100, encoding="utf-8")
    done = tinygrad_tfm("train", "--text", str(path), "--out", str(tmp_path / "run"), *TINY,
                        env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u03b1" in done.stdout


def test_training_goes_on_when_nobody_listens_any_more(text, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_tfm", "train", "--text", str(text), "--out", str(out),
                                *TINY], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and not stderr
    assert (out / "checkpoint.safetensors").exists()


def test_sampling_ends_quietly_when_the_reader_has_seen_enough(trained):
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_tfm", "sample", str(trained[0]), "--count", "100000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and not stderr


def test_a_request_to_terminate_saves_too(text, tmp_path):
    out = tmp_path / "long"
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_tfm", "train", "--text", str(text), "--out", str(out),
                                *TINY, "--steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_steps(process, out)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130 and (out / "resume.safetensors").exists()


def test_a_finished_run_needs_more_steps_to_go_on(trained, text, capsys):
    out, _ = trained
    assert "20 steps already" in refused(capsys, "train", "--resume", "--out", str(out))
    assert "20 steps already" in refused(capsys, "train", "--resume", "--out", str(out), "--stop-at", "15")
    assert "stop_at" in refused(capsys, "train", "--text", str(text), "--stop-at", "0")


def test_a_run_goes_on_with_its_text_in_another_place(text, tmp_path, capsys):
    moved, out = tmp_path / "moved.txt", tmp_path / "run"
    moved.write_bytes(text.read_bytes())
    assert main(["train", "--text", str(moved), "--out", str(out), "--stop-at", "5", *TINY]) == 0
    moved.unlink()
    assert "moved.txt" in refused(capsys, "train", "--resume", "--out", str(out))
    assert main(["train", "--resume", "--out", str(out), "--text", str(text), "--steps", "22"]) == 0
    assert "learning rate" in capsys.readouterr().err
    other = tmp_path / "other.txt"
    other.write_text("another text\n" * 99)
    assert "another text than" in refused(capsys, "train", "--resume", "--out", str(out), "--text", str(other))


def test_weights_tell_the_name_of_a_text_and_not_where_it_lay(trained, text):
    words = (trained[0] / "checkpoint.safetensors").read_bytes()
    assert text.name.encode() in words and str(text.parent).encode() not in words


def test_a_higher_rate_keeps_the_shape_of_its_curve(text, tmp_path):
    assert main(["train", "--text", str(text), "--out", str(tmp_path / "run"), *TINY, "--lr", "1e-5"]) == 0
    was = checkpoint.read(tmp_path / "run/resume.safetensors")[1]["progress"]["provenance"]["train"]
    assert was["lr"] == 1e-5 and 0 < was["lr_floor"] < 1e-5


def test_a_state_to_resume_from_that_holds_weights_only(trained, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "resume.safetensors").write_bytes((trained[0] / "checkpoint.safetensors").read_bytes())
    assert "weights only" in refused(capsys, "train", "--resume", "--out", str(out))


def test_a_picture_that_cannot_be_drawn_costs_no_run(text, tmp_path, capsys, monkeypatch):
    def broken(run):
        raise RuntimeError("no fonts")
    monkeypatch.setattr(Run, "draw", broken)
    assert main(["train", "--text", str(text), "--out", str(tmp_path / "run"), *TINY]) == 0
    assert "WARNING: loss.png could not be drawn: no fonts" in capsys.readouterr().err


def test_too_little_memory_is_said_in_a_line(text, tmp_path, capsys):
    assert main(["train", "--text", str(text), "--out", str(tmp_path / "run"), *TINY, "--batch", str(10**12)]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_bench_needs_a_repetition(capsys):
    assert "repeat" in refused(capsys, "bench", "--suite", "ops", "--repeat", "0")


def test_an_unexpected_error_can_be_looked_into(tmp_path, capsys):
    with pytest.raises(FileNotFoundError):
        main(["sample", str(tmp_path / "nothing"), "--traceback"])


@pytest.mark.parametrize("missing, extra", [("safetensors", "weights")])
def test_a_missing_extra_is_named_before_any_work(missing, extra, text, tmp_path):
    code = f"import sys; sys.modules['{missing}'] = None; import tinygrad_tfm.cli as c; sys.exit(c.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "train", "--text", str(text), "--out", str(tmp_path / "r")],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"tinygrad_tfm[{extra}]" in done.stderr and not (tmp_path / "r").exists()


def test_without_plots_and_progress_bars_training_still_works(text, tmp_path):
    code = ("import sys; sys.modules.update(dict.fromkeys(('tqdm', 'matplotlib', 'threadpoolctl')));"
            "import tinygrad_tfm.cli as c; sys.exit(c.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "train", "--text", str(text), "--out", str(tmp_path / "r"),
                           *TINY], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "20/20 steps" in done.stdout and "tinygrad_tfm[plot]" in done.stdout
