"""The paper's results as data, runs that are found or rejected, and the commands for missing rows."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from evaluation_data import ground_truth_of, results_near
from load_tool import load_tool

from querypose.errors import UserError
from querypose.reproduction.report import to_csv, to_markdown, update_block
from querypose.reproduction.runs import PROTOCOLS, Run, config_of, find_runs, load_tables, missing_commands, run_folder

ROOT = Path(__file__).resolve().parents[1]
TABLES = {table.name: table for table in load_tables()}


@pytest.fixture
def main(monkeypatch):
    """That of the tool, started in the repository."""
    monkeypatch.chdir(ROOT)
    return load_tool("reproduce_tables").main


def row_of(table, *labels):
    (row,) = [row for row in TABLES[table].rows if row.labels == [*labels]]
    return row


def runs_of(table, output):
    return {row: find_runs(row, output) for row in table.rows}


def finish(row, output, keypoints, bbox=50.0, seed=None, **changes):
    """Lay out the folder of a finished run of the row."""
    folder = run_folder(row.config, output, seed)
    folder.mkdir(parents=True)
    cfg = config_of(row.config).clone()
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
    (folder / "config.yaml").write_text(cfg.dump())
    results = {
        "metrics": {"bbox": {"AP": bbox}, "keypoints": keypoints} if keypoints else {},
        "ms_per_image": 71.25, "iterations": 140000, "training_seconds": 7200.0, "images_per_batch": 16,
        "seed": seed or -1, "peak_memory_mb": 2048.0, "hardware": "a GPU", "processes": 8,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_every_figure_stands_in_the_paper(shared_folder):
    lines = (shared_folder / "paper/querypose.txt").read_text().splitlines()
    rows = [row for table in TABLES.values() for row in table.rows if any(row.paper)]
    assert len(rows) == 8 + 4 + 3 + 4 + 4 + 2 + 17 + 17 + 12
    for row in rows:
        figures = " ".join("-" if figure is None else f"{figure}" for figure in row.paper)
        own = [label for label in row.labels if label not in ("Dense", "Sparse", "Two-stage", "End-to-end")]
        words = re.findall(r"[\w.-]+", " ".join(own).replace("_", " "))
        assert any(line.rstrip().endswith(figures) and all(word in line for word in words) for line in lines), row


def test_every_row_of_ours_has_a_config_and_every_ablation_a_row():
    rows = [row for protocol in PROTOCOLS for table in load_tables(protocol) for row in table.rows]
    shipped = [*ROOT.glob("configs/ablations/*/*.yaml"), *ROOT.glob("configs/eval/*/*.yaml")]
    assert {str(path.relative_to(ROOT)) for path in shipped} <= {row.config for row in rows}
    for row in rows:
        assert (row.train is not None) == ("configs/eval" in str(row.config))
        if row.config:
            assert config_of(row.config).MODEL.META_ARCHITECTURE
        else:
            assert any(row.paper) and "QueryPose" not in str(row.labels), "the work of others"


def test_equal_configs_share_a_run(tmp_path):
    same = [row_of("table2a", "None"), row_of("table2b", "+ SPEGM"), row_of("table1", "PQ", "SPEGM")]
    assert {run_folder(row.config, tmp_path) for row in same} == {tmp_path / "ablations/table1/part_spegm"}
    finish(same[0], tmp_path, {"AP": 63.0})
    assert [find_runs(row, tmp_path)[0].figure("AP") for row in same] == [63.0] * 3
    assert find_runs(row_of("table2a", "Summation"), tmp_path) == []


def test_figures_of_coco_and_crowdpose():
    coco, crowdpose = {"AP": 64.0, "APm": 60.5, "APl": 71.5}, {"APM": 71.0, "APE": 78.0}
    for keypoints, wanted in ((coco, [64.0, 60.5, 71.5, None]), (crowdpose, [None, 71.0, None, 78.0])):
        run = Run(Path("none"), {"metrics": {"keypoints": keypoints}}, ())
        assert [run.figure(column) for column in ("AP", "APM", "APL", "APE")] == wanted


def test_markdown_and_csv(tmp_path):
    table = TABLES["table3"]
    finish(table.rows[1], tmp_path, {"AP": 64.04}, bbox=56.26)
    finish(table.rows[1], tmp_path, {"AP": 65.06}, bbox=57.0, seed=2, **{"SOLVER.MAX_ITER": 70000})
    runs = runs_of(table, tmp_path)
    text = to_markdown([table], runs)
    assert "| Figure 3(a) | 55.3 | 64.1 | not yet run |  |  |" in text
    assert "| Figure 3(b) | 56.9 | 64.9 | 56.3 / 57.0 | 64.0 / 65.1 | 71.2 / 71.2 |" in text
    assert "140000 iterations of 16 images in 120.0 min, 71.2 ms an image, 2.0 GiB, seed -1, 8 x a GPU" in text
    assert text.count("not the row's") == 1 and "SOLVER.MAX_ITER 70000 instead of 140000" in text
    peers = TABLES["table5"]
    finish(peers.rows[-1], tmp_path, {})
    text = to_markdown([peers], runs_of(peers, tmp_path))
    assert "| Two-stage | G-RMI | 64.9 | 85.5 | 71.3 | 62.3 | 70.0 |  |" in text
    assert "| results written, for the server to score |" in text
    lines = [line.split(",") for line in to_csv([table], runs).splitlines()]
    assert len(lines) == 1 + 3 * (1 + 2 + 1)
    assert [line[3:7] for line in lines[4:10]] == [
        ["AP box", "56.9", "56.26", "-1"], ["AP box", "56.9", "57.0", "2"],
        ["AP kps", "64.9", "64.04", "-1"], ["AP kps", "64.9", "65.06", "2"],
        ["Time [ms]", "", "71.25", "-1"], ["Time [ms]", "", "71.25", "2"],
    ]  # fmt: skip


def test_a_run_of_another_model_is_refused(tmp_path):
    row = row_of("table2c", "64")
    folder = finish(row, tmp_path, {"AP": 1.0}, **{"MODEL.QUERYPOSE.PART_DIM": 32})
    with pytest.raises(UserError, match="is not of .*64.yaml: MODEL.QUERYPOSE.PART_DIM 32 instead of 64; move it away"):
        find_runs(row, tmp_path)
    options = {"MODEL.COMPILE": "default", "MODEL.CHANNELS_LAST": True, "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING": True}
    finish(row, tmp_path / "same", {"AP": 1.0}, **options)
    assert find_runs(row, tmp_path / "same")[0].differences == ()
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match="is not a complete run"):
        find_runs(row, tmp_path)


def test_commands_for_what_is_missing(tmp_path):
    commands = list(missing_commands([TABLES["table2a"], TABLES["table2b"]], tmp_path, num_gpus=4).values())
    names = ["none", "summation", "concatenation", "selective", "baseline", "spegm_light"]
    assert [Path(command[3]).stem for command in commands] == names
    start = "tools/train_net.py --config-file configs/ablations/table2a/summation.yaml --num-gpus 4 --resume OUTPUT_DIR"
    assert commands[1][1:8] == start.split()
    seeds = missing_commands([TABLES["table2a"]], tmp_path, seeds=[1, 2], opts=["SOLVER.MAX_ITER", "9"])
    assert len(seeds) == 8 and list(seeds.values())[1][-4:] == ["SEED", "2", "SOLVER.MAX_ITER", "9"]


def test_rows_that_evaluate_train_first_and_once(tmp_path):
    commands = missing_commands([TABLES["table4"], TABLES["table5"]], tmp_path)
    tools = [(Path(command[1]).stem, command[3]) for command in commands.values()]
    assert len(tools) == len(set(tools)) == 4 + 4 + 2
    assert tools[:2] == [("train_net", "configs/querypose_R50.yaml"), ("test_net", "configs/eval/table4/R50.yaml")]
    weights, evaluation = next(iter(commands)), list(commands.values())[1]
    assert evaluation[-2:] == ["MODEL.WEIGHTS", str(weights)]
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert next(iter(missing_commands([TABLES["table4"]], tmp_path).values())) == evaluation


def test_launch_runs_one_after_another_and_resumes(main, tmp_path, monkeypatch, capsys):
    ran = []

    def run(command):
        ran.append(Path(command[3]).stem)
        if len(ran) != 2:
            row = next(row for row in TABLES["table2a"].rows if row.config == command[3])
            finish(row, tmp_path, {"AP": 60.0 + len(ran)})
        return subprocess.CompletedProcess(command, int(len(ran) == 2))

    monkeypatch.setattr(subprocess, "run", run)
    options = ["--tables", "table2a", "--output", str(tmp_path)]
    with pytest.raises(UserError, match="ended with code 1 before it was done: python tools/train_net.py .*summation"):
        main([*options, "--launch", "run"])
    assert len(ran) == 2
    main([*options, "--launch"])
    assert capsys.readouterr().out.count("python tools/train_net.py") == 2 + 3
    assert not (tmp_path / "tables.md").exists()
    main([*options, "--launch", "run"])
    assert ran == ["none", "summation", "summation", "concatenation", "selective"]
    assert "4 of 4 rows have a run" in capsys.readouterr().out
    assert "| None | 63.8 | 59.4 | 71.3 | 61.0 |" in (tmp_path / "tables.md").read_text()


def test_a_document_is_updated_between_its_marks(main, tmp_path):
    document = tmp_path / "E.md"
    marks = "{0}<!-- paper results: begin -->\n{1}\n<!-- paper results: end -->\nafter\n"
    before = "before\n<!-- minicoco results: begin -->\nnot mine\n<!-- minicoco results: end -->\n"
    document.write_text(marks.format(before, "old"))
    main(["--tables", "table3", "--output", str(tmp_path), "--update", str(document)])
    table = TABLES["table3"]
    assert document.read_text() == marks.format(before, to_markdown([table], runs_of(table, tmp_path)).strip())
    with pytest.raises(UserError, match="E.md has no lines <!-- minicoco results: begin -->"):
        update_block("nothing", "block", "E.md", "minicoco")


def test_oks_is_read_off_the_results_that_the_run_left(tmp_path):
    (table,) = [table for table in load_tables("minicoco") if table.name == "loss"]
    truth = ground_truth_of(num_images=3, num_persons=2)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    dataset = {"DATASETS.TEST": (f"{tmp_path}/truth.json",)}
    folders = [finish(row, tmp_path, {"AP": 1.0}, **dataset) for row in table.rows]
    (folders[1] / "inference").mkdir()
    (folders[1] / "inference/coco_instances_results.json").write_text(json.dumps(results_near(truth, noise=0)))
    runs = runs_of(table, tmp_path)
    assert [run.figure("OKS") for (run,) in runs.values()] == [None, 100]
    assert "OKS (ours)" in to_markdown([table], runs)
