"""What the paper and the authors' downloads report of the models that have a config here; no measurements."""

# config: where it stands, and keypoint AP in percent
# Table 4, COCO val2017, 2x schedule; time in milliseconds on the authors' hardware
TABLE_4 = {
    "querypose_R50": {"AP": 68.7, "AP50": 88.6, "AP75": 74.4, "APM": 63.8, "APL": 76.5, "time": 70},
    "querypose_Swin-L": {"AP": 73.3, "AP50": 91.3, "AP75": 79.5, "APM": 68.5, "APL": 81.2, "time": 117},
    "querypose_HRNet-W32": {"AP": 72.4, "AP50": 89.8, "AP75": 78.6, "APM": 67.9, "APL": 79.7, "time": 100},
    "querypose_HRNet-W48": {"AP": 73.6, "AP50": 90.3, "AP75": 79.7, "APM": 69.3, "APL": 80.8, "time": 105},
}
# the row of the ablations that is the whole model: Tables 1 to 3, COCO val2017, 1x schedule
ABLATIONS = {"querypose_R50_1x": {"AP": 64.9, "APM": 60.4, "APL": 72.3}}
# COCO val2017, given with the authors' downloads and not in the paper
DOWNLOADS = {"querypose_light_HRNet-W32": {"AP": 69.8}, "querypose_light_HRNet-W48": {"AP": 71.0}}
# Table 6, CrowdPose test
TABLE_6 = {"crowdpose/querypose_HRNet-W48": {"AP": 72.1}, "crowdpose/querypose_Swin-L": {"AP": 72.7}}

SOURCES = {"Table 4": TABLE_4, "Table 6": TABLE_6, "Table 3": ABLATIONS, "authors' download": DOWNLOADS}


def reported(config: str) -> str:
    """Keypoint AP and where it is reported, of a config by its name below `configs/`; "-" where it is not."""
    for source, rows in SOURCES.items():
        if config in rows:
            return f"{rows[config]['AP']} ({source})"
    return "-"
