"""What a script finds in script mode: cases, and how they came out with Amazon's own toolkit.

``script_mode.json`` holds the arguments and the environment that `sagemaker-training` 5.1.4 gave the probe
below. To record it anew, with no Docker and no account::

    python -m venv toolkit && toolkit/bin/pip install sagemaker-training==5.1.4
    python tests/script_mode.py toolkit/bin/train

The configuration files and the variables that the platform sets are written here as AWS documents them.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RECORDING = Path(__file__).with_suffix(".json")
JOB_NAME = "probe-1"
INSTANCE_TYPE = "ml.m5.large"
REGION = "us-east-1"
ARN = f"arn:aws:sagemaker:{REGION}:123456789012:training-job/{JOB_NAME}"
CODE_URI = "s3://bucket/code/sourcedir.tar.gz"

PROBE = """
import json, os, sys
found = {"arguments": sys.argv, "command": sys.orig_argv[1:], "folder": os.getcwd()}
found["environment"] = dict(os.environ)
with open(os.path.join(os.environ["SM_MODEL_DIR"], "probe.json"), "w") as file:
    json.dump(found, file)
"""
FAILING = """
import sys

def divide(a, b):
    return a / b

print("before")
print("a warning", file=sys.stderr)
divide(1, 0)
"""
#: Amazon's images call the toolkit like this. By itself it would leave ErrorMessage empty.
RUN_FAILING = """
from sagemaker_training import entry_point, environment, errors
found = environment.Environment()
try:
    entry_point.run(
        found.module_dir, found.user_entry_point, found.to_cmd_args(), found.to_env_vars(), capture_error=True
    )
except errors.ExecuteUserScriptError as error:
    open(found.model_dir + "/failure.txt", "w").write(str(error))
"""
FILES = {"failing.py": FAILING, "probe.py": PROBE, "bin/probe.py": PROBE}

AWKWARD = {
    "a": "single letter",
    "batch-size": 64,
    "empty": "",
    "falsehood": False,
    "learning_rate": 1e-05,
    "list": [1, "two", {"three": 3}],
    "map": {"y": 1, "x": "a b"},
    "nothing": None,
    "quotes": 'it\'s "quoted" `id` $(touch bad) ; & | > bad * ? ~ \\',
    "ünïcode": "héllo 🙂",
    "up": "../../etc/passwd",
    "path": "/opt/ml/checkpoints",
    "with space": "a  b",
    "dash": "--epochs",
    "large": 12345678901234567890,
}


def _hyperparameters(program, values):
    own = {"sagemaker_program": program, "sagemaker_submit_directory": CODE_URI}
    return {name: json.dumps(value) for name, value in {**own, **values}.items()}


#: Name -> hyperparameters, channels with their content types, and variables of the request.
CASES = {
    "plain": (_hyperparameters("probe.py", {"epochs": 3}), {"training": None}, {}),
    "awkward": (_hyperparameters("probe.py", AWKWARD), {}, {"MINE": "it's mine", "SM_MODEL_DIR": "/elsewhere"}),
    "settings": (
        {
            **_hyperparameters("bin/probe.py", {"sagemaker_region": "eu-west-1", "sagemaker_job_name": "of-the-sdk"}),
            "sagemaker_container_log_level": "10",
            "sagemaker_parameter": "[1]",
            "_tuning_objective_metric": "valid_error",
            "no_json": "1e",
        },
        {"train": "text/csv", "valid.1": None},
        {"NUMBER": "1"},
    ),
}
PLATFORM = {"AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION, "TRAINING_JOB_ARN": ARN, "TRAINING_JOB_NAME": JOB_NAME}


def read_probe(text, base):
    """Return what a probe has written, as in a container where `base` is the folder ``/opt/ml``."""
    found = json.loads(text.replace(str(base), "/opt/ml"))
    found["environment"] = {name: _same_anywhere(name, value) for name, value in found["environment"].items()}
    return found


def _same_anywhere(name, value):
    """Return a variable without what this machine adds to it."""
    if name == "PYTHONPATH":
        return value.split(":")[0]
    if name in ("SM_NUM_CPUS", "SM_NUM_GPUS"):
        return "0"
    return re.sub(r'"num_(cpus|gpus)":\d+', r'"num_\1":0', value)


def lay_out(base, hyperparameters, channels):
    """Write what SageMaker lays into ``/opt/ml`` before it starts a container, the code unpacked."""
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    group = {"instance_group_name": "homogeneousCluster", "instance_type": INSTANCE_TYPE, "hosts": ["algo-1"]}
    current = {"current_instance_type": INSTANCE_TYPE, "current_group_name": "homogeneousCluster"}
    resource = {**hosts, **current, "instance_groups": [group]}
    common = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    inputs = {name: {**common, **({"ContentType": kind} if kind else {})} for name, kind in channels.items()}
    contents = {"hyperparameters": hyperparameters, "resourceconfig": resource, "inputdataconfig": inputs}
    files = {f"input/config/{name}.json": json.dumps(content) for name, content in contents.items()}
    files |= {f"code/{name}": text for name, text in FILES.items()}
    (base / "model").mkdir(parents=True)
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text, encoding="utf-8")


def run_toolkit(command, base, environment):
    """Run a command of the toolkit and return the names of the variables that are ours."""
    # In this mode alone does it not wait until "algo-1" can be resolved; it changes nothing else.
    ours = {"SAGEMAKER_BASE_DIR": str(base), "SM_STUDIO_LOCAL_MODE": "true", "PATH": os.defpath}
    ours["LC_ALL"] = "C.UTF-8"
    given = {**ours, **PLATFORM, **environment}
    subprocess.run(command, env=given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return list(ours)


def record_case(train, base, case):
    """Run the toolkit's command for one case and return what the probe found."""
    hyperparameters, channels, environment = CASES[case]
    lay_out(base, hyperparameters, channels)
    ours = run_toolkit([train], base, environment)
    found = read_probe((base / "model" / "probe.json").read_text(encoding="utf-8"), base)
    for name in ours:
        found["environment"].pop(name, None)
    return found


def record_failure(python, base):
    """Return what the toolkit says of a script that fails."""
    lay_out(base, _hyperparameters("failing.py", {"epochs": 3}), {})
    run_toolkit([python, "-c", RUN_FAILING], base, {})
    text = (base / "model" / "failure.txt").read_text()
    return text.replace(str(base), "/opt/ml").replace(python, "PYTHON")


def main(train):
    """Record every case."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        recorded = {case: record_case(train, base / case, case) for case in CASES}
        python = str(Path(train).absolute().with_name("python"))
        recorded["failure"] = record_failure(python, base / "failure")
    RECORDING.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
