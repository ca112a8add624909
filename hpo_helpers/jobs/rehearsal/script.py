"""Script mode: the command and the environment in which a job's script runs.

Both are what ``sagemaker-training`` 5.1.4, the toolkit inside Amazon's images, gives a script; its modules
``environment``, ``mapping`` and ``process`` are the source. The folder ``/opt/ml`` is another one here.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOST = "algo-1"
GROUP = "homogeneousCluster"
LOG_LEVEL = 20
CONTAINER_FOLDER = "/opt/ml"
#: Hyperparameters that the toolkit keeps to itself; others that begin like them are the framework's.
TOOLKIT_PARAMETERS = (
    "sagemaker_program",
    "sagemaker_submit_directory",
    "sagemaker_enable_cloudwatch_metrics",
    "sagemaker_region",
    "sagemaker_container_log_level",
    "sagemaker_job_name",
    "sagemaker_s3_output",
    "default_user_module_name",
    "_tuning_objective_metric",
)
SAFE_PROGRAM = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)*")
#: As Amazon's images set them, and one thread each, since jobs share this machine.
IMAGE_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "UTF-8",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class ScriptError(Exception):
    """The script cannot be started; the message says why, as the toolkit does where it has the words."""


def read_hyperparameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return hyperparameters as their JSON says, those that are no JSON as they are."""
    return {name: _read_json(text) for name, text in texts.items()}


def redirect(value: Any, folder: Path) -> Any:
    """Return a value, a path in the container's ``/opt/ml`` as the same path in the job's folder."""
    inside = isinstance(value, str) and (
        value == CONTAINER_FOLDER or value.startswith(CONTAINER_FOLDER + "/")
    )
    return f"{folder}{value.removeprefix(CONTAINER_FOLDER)}" if inside else value


def script_command(code: Path, program: Any, hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return the argument vector that runs a program in the folder `code`.

    Raises
    ------
    ScriptError
        If the program's name is no plain path inside the folder, or it would need something installed.
    """
    program = "" if program is None else str(program)
    _check_program(code, program)
    arguments = script_arguments(hyperparameters)
    if program.endswith(".py"):
        return [sys.executable, "--", program, *arguments]
    (code / program).chmod(0o755)
    return ["/bin/sh", "-c", f"./{shlex.quote(program)} {' '.join(map(shlex.quote, arguments))}"]


def script_arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return ``--name value`` for each hyperparameter, by name; a name of one letter has one hyphen."""
    own = {name: value for name, value in hyperparameters.items() if not _is_toolkits(name)}
    return [text for name in sorted(own) for text in (_flag(name), _argument(own[name]))]


def script_environment(
    folder: Path, hyperparameters: Mapping[str, Any], config: Mapping[str, Any], job: Mapping[str, str]
) -> dict[str, str]:
    """Return all variables that a script finds.

    Parameters
    ----------
    folder
        What ``/opt/ml`` is in a container.
    hyperparameters
        The job's, decoded, the toolkit's own among them.
    config
        The contents of ``resourceconfig.json`` and ``inputdataconfig.json``: ``"resource"``, ``"input"``.
    job
        Variables that the platform or the request sets; a request's cannot replace the toolkit's.
    """
    settings = _settings(folder, hyperparameters, config, job.get("TRAINING_JOB_NAME"))
    toolkit = {
        "CURRENT_HOST": HOST,
        "SAGEMAKER_JOB_NAME": str(hyperparameters.get("sagemaker_job_name", "")),
        "SAGEMAKER_REGION": str(hyperparameters.get("sagemaker_region", job.get("AWS_REGION", ""))),
        "PYTHONPATH": str(folder / "code"),
        **{f"SM_{name.upper()}": _text(value) for name, value in settings.items()},
    }
    home = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
    return {**home, **IMAGE_ENVIRONMENT, **job, **toolkit}


def _settings(
    folder: Path, hyperparameters: Mapping[str, Any], config: Mapping[str, Any], job_name: str | None
) -> dict[str, Any]:
    own = {name: value for name, value in hyperparameters.items() if not _is_toolkits(name)}
    program = hyperparameters.get("sagemaker_program")
    known = {
        **_machine_settings(config["resource"]),
        **_folder_settings(folder),
        "input_data_config": config["input"],
        "framework_module": None,
        "log_level": hyperparameters.get("sagemaker_container_log_level", LOG_LEVEL),
        "module_dir": str(hyperparameters.get("sagemaker_submit_directory", folder / "code")),
        "module_name": str(program).removesuffix(".py"),
        "user_entry_point": program,
    }
    framework = {
        name: value
        for name, value in hyperparameters.items()
        if _is_toolkits(name) and name not in TOOLKIT_PARAMETERS
    }
    channels = {name: str(folder / "input" / "data" / name) for name in config["input"]}
    training_env = {
        **known,
        "additional_framework_parameters": framework,
        "channel_input_dirs": channels,
        "distribution_hosts": [],
        "hyperparameters": own,
        "is_master": True,
        "is_modelparallel_enabled": None,
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": job_name,
        "master_hostname": HOST,
        "topology": [],
    }
    return {
        **known,
        "channels": sorted(channels),
        "framework_params": framework,
        "hps": own,
        "training_env": training_env,
        "user_args": script_arguments(hyperparameters),
        **{f"channel_{name}": path for name, path in channels.items()},
        **{f"hp_{name}": value for name, value in own.items()},
    }


def _machine_settings(resource: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "current_host": HOST,
        "current_instance_group": GROUP,
        "current_instance_group_hosts": [HOST],
        "current_instance_type": resource["current_instance_type"],
        "distribution_instance_groups": [],
        "hosts": [HOST],
        "instance_groups": [GROUP],
        "instance_groups_dict": {
            group["instance_group_name"]: group for group in resource["instance_groups"]
        },
        "is_hetero": False,
        "network_interface_name": "eth0",
        "num_cpus": os.cpu_count(),
        "num_gpus": _count_gpus(),
        "num_neurons": 0,
        "resource_config": resource,
    }


def _folder_settings(folder: Path) -> dict[str, str]:
    return {
        "input_config_dir": str(folder / "input" / "config"),
        "input_dir": str(folder / "input"),
        "model_dir": str(folder / "model"),
        "output_data_dir": str(folder / "output" / "data"),
        "output_dir": str(folder / "output"),
        "output_intermediate_dir": str(folder / "output" / "intermediate"),
    }


def resource_config(instance_type: str) -> dict[str, Any]:
    """Return what the platform writes into ``resourceconfig.json`` for a job of one instance."""
    group = {"instance_group_name": GROUP, "instance_type": instance_type, "hosts": [HOST]}
    return {
        "current_host": HOST,
        "current_instance_type": instance_type,
        "current_group_name": GROUP,
        "hosts": [HOST],
        "instance_groups": [group],
        "network_interface_name": "eth0",
    }


def _check_program(code: Path, program: str) -> None:
    name = f"The training entry point {program!r}"
    if not SAFE_PROGRAM.fullmatch(program) or {".", ".."} & set(program.split("/")):
        raise ScriptError(
            f"{name} cannot be used: it must be a path inside the source directory, of letters, digits and "
            "'. _ + - /' alone. Set the 'sagemaker_program' hyperparameter to such a name, as 'train.py'."
        )
    if code.resolve() not in (code / program).resolve().parents:
        raise ScriptError(f"{name} resolves to a location outside the source directory.")
    if not (code / program).is_file():
        raise ScriptError(f"{name} is not in the source directory, which holds {sorted(os.listdir(code))}.")
    for file in ("requirements.txt", "setup.py"):
        if (code / file).exists():
            raise ScriptError(
                f"the rehearsal on this machine installs nothing: the source directory has {file}."
            )


def _is_toolkits(name: str) -> bool:
    return name.startswith("sagemaker_") or name in TOOLKIT_PARAMETERS


def _flag(name: str) -> str:
    return f"--{name}" if len(name) > 1 else f"-{name}" if name else ""


def _argument(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={value[name]}" for name in sorted(value))
    return "" if value is None else str(value)


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@functools.cache
def _count_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU ") for line in listing.splitlines())
