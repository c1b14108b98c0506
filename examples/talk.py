"""Load whatever cirilla or Hugging Face saved, and let it go on.

    python examples/talk.py MODEL "Who is Geralt of Rivia?"

MODEL is a run, a checkpoint, a pushed or downloaded Hugging Face folder, or OWNER/NAME on the Hub.
"""

import sys

from cirilla_cli import generate, load_model
from cirilla_cli.infer.config import GenerateConfig
from cirilla_cli.infer.run import Prompt


def main(model: str, *questions: str) -> None:
    """Answer each question, greedily, in the model's chat format."""
    loaded = load_model(model)
    config = GenerateConfig(temperature=0, max_new_tokens=64, chat=True)
    for answer in generate(config, loaded, [Prompt(text=question) for question in questions]):
        print(f"{answer.prompt}\n> {answer.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
