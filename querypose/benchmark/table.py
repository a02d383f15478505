"""What was measured, as a Markdown table."""


def to_markdown(results: dict) -> str:
    """A line for each model that was measured, and one for each way to read images; `results` as the tool's JSON."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    models = {name: run for name, run in results["runs"].items() if "median_ms" in run}
    reading = [row for run in results["runs"].values() for row in run.get("rows", ())]
    lines = [machine, ""]
    if models:
        lines += [
            "| run | median ms | p90 ms | images/s | MiB of tensors | MiB of the process | parameters (M) | GFLOPs | "
            "of the machine's peak |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for name, run in models.items():
        numbers = [f"{run[key]:.0f}" for key in ("median_ms", "p90_ms")]
        numbers += [f"{run['images_per_s']:.2f}", f"{run['peak_memory_mb']:.0f}", f"{run['process_peak_mb']:.0f}"]
        numbers += [f"{run['parameters'] / 1e6:.1f}", f"{run['gflops']:.0f}", f"{100 * run['of_machine_peak']:.0f}%"]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    if models:
        lines += ["", "| run | parts, in ms |", "|---|---|"]
        for name, run in models.items():
            parts = ", ".join(f"{part} {value:.0f}" for part, value in run["parts_ms"].items())
            lines.append(f"| {name} | {parts} |")
    if reading:
        lines += ["", "| reading, one process | images/s |", "|---|---|"]
        lines += [f"| {row['what']} | {row['images_per_s']:.0f} |" for row in reading]
    return "\n".join(lines) + "\n"
