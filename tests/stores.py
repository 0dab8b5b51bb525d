"""Read back what loggers stored about a training."""

import json
import sqlite3
import struct
import zipfile
from collections import defaultdict

PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet": "comet_ml",
    "clearml": "clearml",
    "dvc": "dvclive",
}
"""The package of each logger."""

TIMES = (
    "gradwatch",
    "_",
    "model/speed",
    "sys.",
    "Epoch Time/",
    "Summary/model/speed",
    "Summary/gradwatch",
)
"""Prefixes of our numbers, and of times that differ between trainings."""


class Stored:
    """What one logger stored in a folder.

    Attributes:
        runs: Number of runs.
        series: Pairs of step and value in order, by name.
        texts: Everything else by name: findings, verdict, tables, pages, pictures.
        rows: Rows of W&B as dicts.
    """

    def __init__(self):
        self.runs = 0
        self.series = defaultdict(list)
        self.texts = {}
        self.rows = []

    def ours(self):
        return {name: one for name, one in self.series.items() if name.startswith("gradwatch")}

    def ultralytics_metrics(self):
        """Return Ultralytics' series, without times, which differ between trainings."""
        return {
            name: one
            for name, one in self.series.items()
            if not name.startswith(TIMES) and name != "process duration"
        }


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = Stored()
    files = sorted(folder.rglob("events.out.tfevents.*"))
    found.runs = len(files)
    for file in files:
        events = EventAccumulator(str(file), {"scalars": 0, "images": 0, "tensors": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.series[name] += [(one.step, one.value) for one in events.Scalars(name)]
        for name in events.Tags()["images"]:
            found.texts[name] = [one.encoded_image_string[:4] for one in events.Images(name)]
        for name in events.Tags()["tensors"]:
            tensors = events.Tensors(name)
            found.texts[name] = [one.tensor_proto.string_val[0].decode() for one in tensors]
    return found


def wandb(folder):
    """Read W&B rows, indexed by their epoch, our step, or else their row number."""
    found = Stored()
    for file in sorted(folder.rglob("run-*.wandb")):
        found.runs += 1
        for record in _records(file.read_bytes()):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                found.rows.append(_items(record.history.item))
            elif kind == "summary":
                found.texts |= _items(record.summary.update)
            elif kind == "alert":
                found.texts[f"alert {record.alert.title}"] = record.alert.text
    for row in found.rows:
        for name, value in row.items():
            axis = "gradwatch/step" if name.startswith("gradwatch") else "epoch"
            parts = name.rpartition("/")[0]
            if isinstance(value, (int, float)) and f"{parts}/_type" not in row:
                found.series[name].append((row.get(axis, row["_step"]), value))
            else:
                found.texts[name] = value
    return found


def _items(items):
    return {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items}


def _records(content):
    """Yield the records of a ``.wandb`` file: LevelDB's log format after a 7-byte header."""
    from wandb.proto import wandb_internal_pb2 as messages

    place, part = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        if kind == 0:
            return
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            record = messages.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def mlflow(folder):
    found = Stored()
    base = sqlite3.connect(folder / "mlflow.db")
    found.runs = base.execute("select count(*) from runs").fetchone()[0]
    query = "select key, step, value from metrics order by key, step, timestamp"
    for name, step, value in base.execute(query):
        found.series[name].append((step, value))
    found.texts |= dict(base.execute("select key, value from tags where key like 'gradwatch%'"))
    query = "select value from tags where key = 'mlflow.note.content'"
    found.texts["description"] = base.execute(query).fetchone()
    found.texts |= {"status": base.execute("select status from runs").fetchone()[0]}
    base.close()
    for path in folder.glob("mlruns/**/artifacts/gradwatch/*"):
        is_text = path.suffix in {".html", ".json"}
        found.texts[path.name] = path.read_text("utf-8") if is_text else path.read_bytes()[:4]
    return found


def comet(folder):
    """Read offline archives with one message per line and files, without the printed output."""
    found = Stored()
    for archive in sorted(folder.rglob("*.zip")):
        with zipfile.ZipFile(archive) as packed:
            if "messages.json" not in packed.namelist():
                continue
            found.runs += 1
            for line in packed.read("messages.json").decode().splitlines():
                message = json.loads(line)
                payload = message["payload"]
                if message["type"] == "metric_msg":
                    metric = payload["metric"]
                    pair = metric["step"], metric["metricValue"]
                    found.series[metric["metricName"]].append(pair)
                elif message["type"] == "file_upload":
                    name = json.dumps(payload["additional_params"])
                    found.texts[name] = packed.read(payload["file_path"]).decode("utf-8", "replace")
                elif message["type"] != "standard_output":
                    key = f"{message['type']} {len(found.texts)}"
                    found.texts[key] = json.dumps(payload)
    return found


def clearml(folder):
    """Read offline folders with one event per line, and our lines of the console log."""
    found = Stored()
    for file in folder.rglob("log.jsonl"):
        lines = [line for line in file.read_text("utf-8").splitlines() if "GradWatch, " in line]
        found.texts["log"] = "\n".join(lines)
    for file in sorted(folder.rglob("metrics.jsonl")):
        found.runs += 1
        for line in file.read_text("utf-8").splitlines():
            for event in json.loads(line):
                name = f"{event.get('metric')}/{event.get('variant')}"
                if event["type"] == "training_stats_scalar":
                    found.series[name].append((event["iter"], event["value"]))
                else:
                    found.texts[f"{event['type']} {name}"] = json.dumps(event)
    return found


def dvc(folder):
    found = Stored()
    found.runs = len(list(folder.glob("dvclive/metrics.json")))
    metrics = folder / "dvclive" / "plots" / "metrics"
    for file in sorted(metrics.rglob("*.tsv")):
        _, *lines = file.read_text("utf-8").splitlines()
        name = file.relative_to(metrics).as_posix().removesuffix(".tsv")
        for line in lines:
            step, value = line.split("\t")
            found.series[name].append((int(step), float(value)))
    for file in folder.glob("dvclive/plots/custom/*.json"):
        found.texts[file.stem] = file.read_text("utf-8")
    for file in folder.glob("dvclive/plots/images/**/*.png"):
        found.texts[file.name] = file.read_bytes()[:4]
    found.texts["metrics"] = (folder / "dvclive" / "metrics.json").read_text("utf-8")
    return found


READERS = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "comet": comet,
    "clearml": clearml,
    "dvc": dvc,
}
