"""A prompt of the user's own: what the model says to it, and which training examples taught it that.

    python -P -m sharpeye.runs.text_question WORKSPACE RUN QUESTION

It is a process of its own; it loads the model, and finds all else in the artifacts of the run. Its report is
a file, kept for the next time.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sharpeye.config import digest
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.progress import Progress
from sharpeye.runs.reports import Advance, Report, read_report, start_report, write_report
from sharpeye.runs.text_review import TextReview, open_text_review
from sharpeye.runs.workspace import QuestionFolder, Workspace


@dataclass(frozen=True)
class Question:
    """A prompt, and the completion in question; an empty one stands for what the trained model says."""

    prompt: str
    completion: str = ""


@dataclass(frozen=True)
class Answer:
    """What the model says, and the influence on that.

    Attributes:
        completion: whose loss influence is about.
        before: what the model said before training.
        after: what it says at the validation minimum.
        loss: of the completion there.
        influence: of each training example, as of `TextReview.influence`, (N,).
    """

    completion: str
    before: str
    after: str
    loss: float
    influence: tuple[float, ...]


def question_folder(workspace: Workspace, run: str, question: Question) -> QuestionFolder:
    """Where a question to a run is kept."""
    return workspace.run(run).question(digest(question.prompt, question.completion))


def read_answer(workspace: Workspace, run: str, question: Question) -> Report[Answer] | None:
    """An answer as it stands; None where the question was not asked."""
    return read_report(question_folder(workspace, run, question), Answer)


def ask(workspace: Workspace, run: str, question: Question) -> None:
    """Start the process that answers a question to a run that has scores, unless it was asked before."""
    report = read_answer(workspace, run, question)
    if report is not None and report.state != "failed":
        return
    folder = question_folder(workspace, run, question)
    folder.root.mkdir(parents=True, exist_ok=True)
    with replacing(folder.question) as temporary:
        temporary.write_bytes(msgspec.json.encode(question))
    start_report(folder, "sharpeye.runs.text_question", str(workspace.root), run, folder.root.name)


def answer(workspace: Workspace, review: TextReview, question: Question, advance: Advance) -> Answer:
    """Answer a question at the run's first validation minimum; `fvm_normalized`, or plain where the run ranks
    by that.

    Raises:
        InputError: the prompt is empty, the run's tables changed, or its model is gone.
    """
    from sharpeye.runs.context import Execution
    from sharpeye.runs.text_minimum import (
        gradients_of,
        prepared,
        set_parameters,
        stored_gradients,
        trained_parameters,
        training_lengths,
        validation_minimum,
    )
    from sharpeye.runs.text_stages import gradient_stage, minima_of
    from sharpeye.runs.text_submission import splits_of_run
    from sharpeye.text.examples import TextExamples
    from sharpeye.text.influence import normalized_influence, signed_influence
    from sharpeye.text.language_models import encode
    from sharpeye.text.saying import say
    from sharpeye.text.stored_gradients import StoredGradients
    from sharpeye.training.devices import select_device

    def report(step: Progress) -> None:
        advance(step.title, step.done, step.total)

    def asked(completion: str) -> TextExamples:
        return TextExamples(("question",), (question.prompt,), (completion,), None)

    if not question.prompt.strip():
        raise InputError("a prompt must say something")
    config = review.config
    splits = splits_of_run(config, review.run)
    execution = Execution(select_device(config.device), report, lambda note: None)
    execution.start("load")
    context = prepared(config, workspace, execution, splits)
    kind = minima_of(config)[0]
    minimum, curvature = validation_minimum(context, trained_parameters(context), kind)
    training = stored_gradients(context, minimum, gradient_stage(kind), "training")
    execution.start("say")
    set_parameters(context, minimum)
    prompt = encode(context.model, asked(""))[0]
    longest = max(one.completion for one in context.training)
    before, after = (say(context.model, prompt, longest, with_lora)[0].strip() for with_lora in (False, True))
    completion = question.completion or after
    table = gradients_of(context.model, encode(context.model, asked(completion))[0])
    given = StoredGradients((table,), context.model.shapes)
    execution.start("pairs")
    if review.result.ranked_by in ("fvm", "vm"):
        influence = signed_influence(curvature, training, given, execution.device)
    else:
        lengths = training_lengths(context, minimum, curvature, training)
        influence = normalized_influence(curvature, training, given, lengths, execution.device)
    return Answer(completion, before, after, float(table["loss"][0]), tuple(influence[:, 0].tolist()))


def main(workspace: Workspace, run: str, name: str) -> None:
    """Answer a question and write its report."""
    folder = workspace.run(run).question(name)
    question = msgspec.json.decode(folder.question.read_bytes(), type=Question)
    write_report(
        folder, lambda advance: answer(workspace, open_text_review(workspace, run), question, advance)
    )


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
