"""Two agents of torchrun, as on two machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from children import free_ports
from helpers import ROOT, below
from test_elastic import STEPS, logged, options

from solo.runs.checkpoint_files import read_checkpoint
from solo.runs.saved import SavedRun

pytestmark = pytest.mark.slow


def agent(recipe: Path, number: int, port: int, nodes: int = 2) -> subprocess.Popen[str]:
    """What is typed on one of the machines."""
    launcher = ["-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=1"]
    launcher += [f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    words = ["--config-path", str(recipe.parent), "--config-name", recipe.stem]
    return subprocess.Popen(
        [sys.executable, *launcher, "main_pretrain.py", *words, "devices=1", f"num_nodes={nodes}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def recipe_of(folder: Path) -> Path:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(options(folder)))
    return recipe


def agents(recipe: Path) -> list[subprocess.Popen[str]]:
    port = free_ports(1)[0]
    return [agent(recipe, number, port) for number in range(2)]


def test_two_agents_end_as_one_process_and_a_lost_one_is_gone_on_with(tmp_path: Path) -> None:
    alone = agent(recipe_of(tmp_path / "alone"), 0, free_ports(1)[0], nodes=1)
    said, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, said

    recipe = recipe_of(tmp_path / "two")
    first, second = agents(recipe)
    deadline = time.monotonic() + 200
    while max(logged(tmp_path / "two"), default=-1) < 6:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    for pid in (second.pid, *below(second.pid, wanted=1)):  # a machine is gone
        os.kill(pid, signal.SIGKILL)
    second.communicate()
    said, _ = first.communicate(timeout=120)
    assert first.returncode != 0 and "Another process of this run is gone" in said, said
    (folder,) = (tmp_path / "two").glob("*/*")
    assert SavedRun(folder).facts["status"] == "running"

    both = agents(recipe)
    told = [each.communicate(timeout=300)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], told
    assert "continuing from" in told[0], told[0][:900]
    assert [folder] == list((tmp_path / "two").glob("*/*"))
    (expected,) = (tmp_path / "alone").glob("*/*")
    states = [read_checkpoint(run / "checkpoints/last.ckpt") for run in (expected, folder)]
    assert states[0]["global_step"] == states[1]["global_step"] == STEPS
    for name, value in states[0]["state_dict"].items():
        if value.is_floating_point():
            gap = float((value - states[1]["state_dict"][name]).abs().max())
            assert gap <= 1e-5 * max(1.0, float(value.abs().max())), name


def test_a_list_of_hosts(tmp_path: Path) -> None:
    """With an ssh that stays on this machine."""
    ssh, hosts = tmp_path / "ssh", tmp_path / "hosts.txt"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    ssh.chmod(0o755)
    hosts.write_text("127.0.0.1\n127.0.0.1\n")
    recipe = recipe_of(tmp_path / "two")
    words = [str(hosts), "1", "--config-path", str(tmp_path), "--config-name", recipe.stem]
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MASTER_PORT": str(free_ports(1)[0]), "OMP_NUM_THREADS": "1"}
    script = ["sbatch_scripts/over_ssh.sh", *words, "max_epochs=1", "name=a b"]
    done = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "no space" in done.stdout + done.stderr
    done = subprocess.run(
        [*script[:-1], "name=one"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "two").glob("*/one-*")
    assert SavedRun(folder).facts["status"] == "finished"
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["processes"] == 2
