"""Rows spread over processes, clusters and machines: the same table, no row twice, none missing, whoever is
killed.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from qlib import experiments, laboratory, recording, results
from qlib.cli import main
from qlib.workers import spread

TINY = experiments.Experiment(
    "tiny",
    "digits",
    {},
    (tuple({"activation_bits": b} for b in (3, 4, 5, 6)),),
    images=60,
    calibration_images=(20,),
    seeds=(0, 1),
)
MANY = dataclasses.replace(  # rows, of few draws
    TINY, vary=(*TINY.vary, tuple({"first_last_bits": b} for b in (4, 5, 6, 7, 8, 9)))
)
SAME = [c for c in results.COLUMNS if c not in ("session", "seconds")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The table of one process."""
    return recording.record(TINY, tmp_path_factory.mktemp("alone") / "tiny.csv", progress=False)[SAME]


@pytest.fixture
def table(tmp_path):
    return tmp_path / "tiny.csv"


def kill_once(item):
    """Dies by SIGKILL at item 3 if no process has before."""
    number, flag = item
    if number == 3 and not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(item):
    raise OSError(f"no disk for {item}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_does_not_depend_on_the_number_of_processes(table, alone, workers):
    assert recording.record(TINY, table, progress=False, workers=workers)[SAME].equals(alone)
    assert results.provenance(table)[0]["hardware"].endswith("1 threads")


def test_what_a_killed_process_had_in_hand_another_takes_over(tmp_path):
    flag = str(tmp_path / "killed")
    found = dict(spread(kill_once, [(i, flag) for i in range(8)], workers=2))
    assert os.path.exists(flag) and {number: square for (number, _), square in found.items()} == {
        i: i * i for i in range(8)
    }


def test_processes_that_only_die_end_in_an_error():
    with pytest.raises(OSError, match="workers were killed 3 times"):
        list(spread(die, [1, 2], workers=1))


def test_an_error_of_the_machine_ends_all():
    with pytest.raises(OSError, match="no disk"):
        list(spread(refuse, [1, 2, 3], workers=1))


def test_processes_end_when_their_parent_is_killed(table):
    script = textwrap.dedent(f"""
        import dataclasses
        from pathlib import Path
        from test_workers import MANY, recording
        if __name__ == "__main__":
            recording.record(dataclasses.replace(MANY, seeds=tuple(range(7)), images=500), Path({str(table)!r}), workers=2)
    """)  # noqa: E501
    path = table.with_name("script.py")
    path.write_text(script, encoding="utf8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(path)], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: table.exists() and len(table.read_text().splitlines()) > 3)
    children = [int(p) for p in open(f"/proc/{parent.pid}/task/{parent.pid}/children").read().split()]
    parent.kill()
    parent.wait()
    assert children
    wait_until(lambda: not any(running(child) for child in children))
    rows = results.load_table(table)
    assert len(rows) > 2 and rows.key.is_unique


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_recordings_of_one_table_at_once_do_not_harm_it(table, alone):
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
        from pathlib import Path
        from test_workers import TINY, recording, results
        recording.record(TINY, Path({str(table)!r}), progress=False)
    """),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
    )
    recording.record(TINY, table, progress=False)
    assert other.wait() == 0
    assert results.load_table(table)[SAME].equals(alone)
    assert set(results.load_table(table).session) <= set(range(len(results.provenance(table))))


def test_shards_merge_to_the_table_of_one_machine(table, alone):
    for part in (3, 1, 2):
        assert len(recording.record(TINY, table, progress=False, shard=(part, 3))) == 3
    assert not table.exists()
    assert recording.merge(TINY, table)[SAME].equals(alone)
    assert len(results.provenance(table)) == 3 and sorted(p.name for p in table.parent.iterdir()) == [
        "tiny.csv",
        "tiny.csv.meta.yaml",
    ]
    assert {row.session for row in results.load_table(table).itertuples()} == {0, 1, 2}
    with pytest.raises(FileNotFoundError, match="no shard of tiny"):
        recording.merge(TINY, table)


def test_a_shard_goes_on_and_a_merge_adds_to_what_is_there(table, alone):
    recording.record(dataclasses.replace(TINY, seeds=(0,)), table, progress=False)
    recording.record(TINY, table, progress=False, shard=(2, 2))
    assert len(results.provenance(recording.shard_path(table, 2, 2))) == 1
    recording.record(TINY, table, progress=False, shard=(2, 2))  # nothing is missing: no session, no row
    assert len(results.provenance(recording.shard_path(table, 2, 2))) == 1
    merged = recording.merge(TINY, table)
    assert merged.key.is_unique and set(merged.key) <= set(alone.key)
    assert recording.record(TINY, table, progress=False)[SAME].equals(alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_fails_is_noted_and_does_not_stop_the_rest(table, workers, monkeypatch):
    faulty = dataclasses.replace(
        TINY,
        seeds=(0,),
        vary=(({"activation_bits": 4}, {"target_weight_bits": 0.5, "steps": 1}, {"activation_bits": 5}),),
    )
    rows = recording.record(faulty, table, progress=False, workers=workers)
    assert len(rows) == 3 and [e[:10] for e in results.failures(table).values()] == ["ValueError"]
    monkeypatch.setattr(
        laboratory.Laboratory, "measure", lambda *_: pytest.fail("a failed run was tried again")
    )
    assert recording.record(faulty, table, progress=False).equals(rows)
    monkeypatch.undo()
    measure = laboratory.Laboratory.measure
    cured = {"allocation": None}
    monkeypatch.setattr(
        laboratory.Laboratory, "measure", lambda self, run: measure(self, dataclasses.replace(run, **cured))
    )
    assert (
        len(recording.record(faulty, table, progress=False, retry=True)) == 4
        and results.failures(table) == {}
    )


def test_a_disk_that_is_full_leaves_the_rows_that_are_there(table, monkeypatch):
    recording.record(dataclasses.replace(TINY, seeds=(0,)), table, progress=False)
    before = table.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        recording.record(TINY, table, progress=False)
    assert table.read_bytes() == before and not list(table.parent.glob(".*"))


def test_a_file_that_cannot_grow_leaves_the_rows_that_are_there(table):
    """As a full disk or a quota does it: the system refuses to write on."""
    resource = pytest.importorskip("resource")
    recording.record(dataclasses.replace(TINY, seeds=(0,)), table, progress=False)
    grid = table.with_name("grid.yaml")
    grid.write_text(
        "bench: digits\nimages: 60\ncalibration_images: [20]\nvary: [{activation_bits: [3, 4, 5, 6, 7]}]\n"
    )
    before = table.read_bytes()
    limit = len(table.read_bytes())
    sweep = subprocess.run(
        [sys.executable, "-m", "qlib.cli", "sweep", str(grid), "--out", str(table)],
        text=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert sweep.returncode == 2 and sweep.stderr.splitlines()[-1].startswith("qlib: [Errno")
    assert table.read_bytes() == before and not list(table.parent.glob(".*"))


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_computed(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(laboratory.Laboratory, "measure", lambda *_: pytest.fail("computed"))
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    assert (
        main(
            [
                "run",
                "--images",
                "20",
                "--calibration-images",
                "20",
                "--out",
                str(tmp_path / "taken" / "rows.csv"),
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("qlib: ") and (tmp_path / "taken").is_file()

    def refuse(path, *arguments, **options):
        if str(path).startswith(str(tmp_path)) and "w" in "".join(arguments):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    opened = open
    monkeypatch.setattr("builtins.open", refuse)  # who runs the tests may be allowed to write everywhere
    assert (
        main(["run", "--images", "20", "--calibration-images", "20", "--out", str(tmp_path / "rows.csv")])
        == 2
    )
    assert "Permission denied" in capsys.readouterr().err and not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none_is_refused(shard, capsys):
    with pytest.raises(SystemExit):
        main(["record", "digits/pooling", "--shard", shard])
    assert "is not I/N" in capsys.readouterr().err


def test_a_name_without_a_bench_is_one_of_digits(capsys):
    from qlib.commands.recorded import experiments_named

    assert [e.bench for e in experiments_named(["skip-residual", "imagenet-generated/throughput"])] == [
        "digits",
        "imagenet-generated",
    ]


def test_a_dask_cluster_makes_the_same_table_though_a_worker_is_killed(table, alone):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        workers = list(cluster.workers.values())
        script = textwrap.dedent(f"""
            from pathlib import Path
            from test_workers import MANY, recording
            recording.record(MANY, Path({str(table)!r}), progress=False, scheduler={cluster.scheduler_address!r})
        """)  # noqa: E501
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
        recorder = subprocess.Popen([sys.executable, "-c", script], env=environment)
        wait_until(lambda: table.exists() and len(table.read_text().splitlines()) > 4)
        os.kill(workers[0].pid, signal.SIGKILL)
        assert recorder.wait() == 0
    expected = recording.record(MANY, table.with_name("expected.csv"), progress=False)[SAME]
    assert results.load_table(table)[SAME].equals(expected)
