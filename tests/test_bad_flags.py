"""Wrong command lines of every tool: one sentence, exit code 2, no traceback, nothing overwritten."""

import pytest
from refusals import ROOT, listed, tool

CONFIG = "--config-file config.yaml"
INPUT = f"{CONFIG} --input photo.jpg"
WEIGHTS = "MODEL.WEIGHTS model.pth"
TRUTH = "--dataset truth.json --results results.json"
FLAGS = [
    ("train_net", "config file"),
    (f"train_net {CONFIG} --num-gpus 0", "--num-gpus"),
    (f"train_net {CONFIG} --num-machines 2", "--dist-url"),
    (f"train_net {CONFIG} --machine-rank 3", "--machine-rank"),
    ("train_net --config-file images", "does not exist"),
    ("train_net --config config.yaml --nonsense", "nonsense|unrecognized"),
    (f"train_net {CONFIG} OUTPUT_DIR truth.json", "cannot write to truth.json"),
    (f"test_net {CONFIG}", "nothing to evaluate"),
    (f"test_net {CONFIG} --resume OUTPUT_DIR output/none", "nothing to evaluate: .*a checkpoint in OUTPUT_DIR"),
    (f"test_net {CONFIG} MODEL.WEIGHTS model.pth DATASETS.TEST ()", "nothing to evaluate on; set DATASETS.TEST"),
    ("demo", "--input"),
    (f"demo {CONFIG} --input absent.jpg --output out {WEIGHTS}", "absent.jpg"),
    (f"demo {INPUT} --output photo.jpg {WEIGHTS}", "photo.jpg"),
    (f"demo {INPUT} --output out --top-k 0 {WEIGHTS}", "top.k"),
    (f"demo {CONFIG} --input truth.json --output output/d {WEIGHTS}", "truth.json"),
    (f"demo {INPUT} --output out --smooth {WEIGHTS}", "--track"),
    (f"demo {INPUT} --output out --score-threshold nan {WEIGHTS}", "score threshold must be from 0 to 1, not nan"),
    (f"demo {CONFIG} --webcam -1 --output out {WEIGHTS}", "--webcam must be 0 or greater"),
    (f"demo {CONFIG} --input photo.jpg IMG_1.JPG --output output/i {WEIGHTS}", "no images found in IMG_1.JPG"),
    (f"demo {INPUT} --output out --track {WEIGHTS}", "a single image"),
    (f"demo {INPUT} --output out --sigmas -1", "--sigmas"),
    (f"visualize_attention {INPUT} --output truth.json {WEIGHTS}", "truth.json"),
    (f"visualize_attention {INPUT} --output o --stage 9 {WEIGHTS}", "--stage 9"),
    (f"visualize_attention {INPUT} --output o --persons 0", "--persons 0"),
    (f"visualize_attention {INPUT} --output o", "MODEL.WEIGHTS"),
    (f"export_onnx {CONFIG} --output truth.json {WEIGHTS}", "truth.json exists"),
    (f"export_onnx {CONFIG} --output absent/model.onnx {WEIGHTS}", "cannot write"),
    (f"export_onnx {CONFIG} --output model.onnx --opset 3 {WEIGHTS}", "opset"),
    (f"web_demo {CONFIG} {WEIGHTS} --port 99999", "cannot listen"),
    ("convert_weights --source authors model.pth truth.json", "truth.json exists already"),
    ("convert_weights --source authors absent.pth out.pth", "absent.pth"),
    ("evaluate_results --dataset truth.json --results absent.json", "absent.json"),
    (f"evaluate_results {TRUTH} --sigmas 0.1", "sigmas"),
    (f"evaluate_results {TRUTH} --protocol crowdpose", "crowdIndex"),
    (f"evaluate_results {TRUTH} --output absent/a.json", "absent"),
    (f"evaluate_results {TRUTH} --per-keypoint truth.json/a.png", "truth.json"),
    ("check_dataset truth.json@absent", "absent"),
    ("check_dataset truth.json@images --output absent/report.json", "absent"),
    ("check_dataset truth.json@images --picture truth.json/a.png", "truth.json"),
    ("prepare_crowdpose --annotations absent", "absent"),
    ("prepare_crowdpose --annotations images --images images", "crowdpose_"),
    ("prepare_crowdpose --annotations truth.json --images images", "truth.json is no folder of CrowdPose"),
    ("prepare_minicoco --coco absent", "absent"),
    ("prepare_minicoco --coco absent --output images", "exists already"),
    ("plot_training absent --output a.png", "absent"),
    ("plot_training truth.json --output a.png", "truth.json"),
    ("plot_training truth.json --output a.png --labels a b", "labels"),
    ("plot_reliability --dataset absent.json --output a.png", "absent.json"),
    (f"benchmark {CONFIG} --size 1 1", "--size"),
    (f"benchmark {CONFIG} --batch 0", "--batch"),
    (f"benchmark {CONFIG} --output photo.jpg", "photo.jpg"),
    ("reproduce_tables --tables table9", "table9"),
    ("reproduce_tables --num-gpus 0", "--num-gpus"),
    ("reproduce_tables --update absent.md --output images/none", "absent.md"),
    ("reproduce_tables --launch --seeds 1 -- SOLVER.MAX_ITER", "pairs"),
    ("overfit --dataset absent.json", "absent.json"),
    ("overfit --dataset truth.json@images --num-images 0 OUTPUT_DIR output/o", "--num-images"),
    ("overfit --dataset truth.json@images --num-images 5 OUTPUT_DIR output/o", "suitable"),
    ("quickstart --minutes 0", "--minutes"),
    ("quickstart --output truth.json", "truth.json"),
    ("make_model_zoo --output absent/zoo.md", "absent/zoo.md"),
    ("make_model_zoo --output a.md --results absent", "is not a folder"),
    (f"analyze_model {CONFIG} --depth -1", "--depth"),
    (f"visualize_data {CONFIG} --output truth.json", "truth.json"),
    (f"visualize_data {CONFIG} --output output/d --number 0", "--number"),
    ("draw_architecture --output output/a.xyz", "xyz"),
    ("make_config_reference --output absent/a.md", "absent"),
    ("visualize_results", "required"),
    ("install_detectron2 --nonsense", "nonsense"),
    (f"predict_dataset {CONFIG} --input absent --output output/p", "absent names no image"),
    (f"predict_dataset {CONFIG} --input images --output output/p --threads 0", "--threads"),
    (f"predict_dataset {CONFIG} --input images --output output/q MODEL.WEIGHTS absent.pth", "absent.pth"),
]


@pytest.mark.parametrize(("command", "words"), listed(FLAGS))
def test_flags(refused, monkeypatch, command, words):
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    refused(tool(*command.split()), words)


def test_every_tool_is_in_the_table():
    names = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"detectron2_patches"}
    assert names <= {command.split()[0] for command, _ in FLAGS}
