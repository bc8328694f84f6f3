"""The gradient of one global batch: from pieces, of fewer rows where memory is short, over every process of the run.

The losses are divided by the totals of the whole global batch before anything is added up, so neither pieces nor
processes change what is computed, only the order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from configs.choices import Role
from data_pipeline.contract import EnvironmentProblem
from training.action_figures import WrittenActions
from training.batch import Batch
from training.flow_figures import FlowCodes
from training.layout import ROLES
from training.loss import TokenLosses, role_shares, token_losses, weighted_sum
from training.reasoning_text import TAGS
from training.run import Run
from training.sampling import StepInput

ACTIONS_DECODED_EVERY = 10
"""Steps between figures of decoded actions, which cost the time of some samples."""

_ACTION = ROLES.index(Role.ACTION)
_RIGHT = len(ROLES)  # behind the roles' losses: right and seen action tokens, then those of each tag
_SEEN = _RIGHT + 1
_RIGHT_TAGS = _SEEN + 1
_SEEN_TAGS = _RIGHT_TAGS + len(TAGS)
_PLACES = _SEEN_TAGS + len(TAGS)
_TOO_LARGE = (
    ", and the global batch is never made smaller; set trainer.gradient_checkpointing=true, or use a device with more "
    "memory"
)


@dataclass
class _Seen:
    """What a step's pieces showed."""

    sums: torch.Tensor  # float64 [_PLACES]
    actions: list[WrittenActions] = field(default_factory=list[WrittenActions])
    flow: list[FlowCodes] = field(default_factory=list[FlowCodes])


@dataclass(frozen=True)
class Measured:
    """What one step saw, over all processes."""

    means: dict[Role, float]  # mean loss of each role that occurred
    figures: dict[str, float]  # for metrics.jsonl


def compute_gradient(run: Run, step_input: StepInput, seed: int) -> Measured:
    """Leave the global batch's gradient in the parameters. seed: of dropout; each process has its own from it.

    Where memory is short the pieces are halved for the rest of the run; the global batch and its loss stay. Raises
    EnvironmentProblem where one sample does not fit; OutOfMemoryError of a sharded model, as the others would wait.
    """
    while True:
        torch.manual_seed(seed + run.accelerator.process_index)
        run.optimizer.zero_grad(set_to_none=True)
        try:
            seen = _backward(run, step_input)
            break
        except torch.OutOfMemoryError:
            if run.sharded:
                raise
            largest = max(len(batch.input_ids) for batch in step_input.batches)
            run.rows = fewer_rows(min(run.rows or largest, largest), _TOO_LARGE)
        torch.cuda.empty_cache()
    if run.accelerator.num_processes > 1:
        _add_up(run, seen)
    sums: list[float] = seen.sums.tolist()
    means = {role: sums[number] for number, role in enumerate(ROLES) if role in step_input.totals}
    return Measured(means, _figures(run, seen, sums))


def forward(run: Run, batch: Batch) -> TokenLosses:
    """Forward one batch on the run's device, in its precision."""
    with run.accelerator.autocast():
        return token_losses(run.network, batch.to(run.accelerator.device))


def _backward(run: Run, step_input: StepInput) -> _Seen:
    """Add up this process's gradients."""
    seen = _Seen(torch.zeros(_PLACES, dtype=torch.float64, device=run.accelerator.device))
    decoded = run.actions if run.step % ACTIONS_DECODED_EVERY == 0 else None
    pieces = [piece for batch in step_input.batches for piece in batch.pieces(run.rows)]
    for _ in range(_pieces_of_others(run, len(pieces))):
        shares = role_shares(forward(run, pieces[0]), step_input.totals)
        run.accelerator.backward(0 * weighted_sum(shares, run.role_weights))
    for piece in pieces:
        tokens = forward(run, piece)
        shares = role_shares(tokens, step_input.totals)
        run.accelerator.backward(weighted_sum(shares, run.role_weights))
        for role, share in shares.items():
            seen.sums[ROLES.index(role)] += share.detach()
        acting, tagged = tokens.roles == _ACTION, tokens.tags >= 0
        seen.sums[_RIGHT] += (tokens.correct & acting).sum()
        seen.sums[_SEEN] += acting.sum()
        seen.sums[_RIGHT_TAGS:_SEEN_TAGS] += torch.bincount(tokens.tags[tagged & tokens.correct], minlength=len(TAGS))
        seen.sums[_SEEN_TAGS:] += torch.bincount(tokens.tags[tagged], minlength=len(TAGS))
        seen.actions += decoded.read(tokens) if decoded is not None else []
        seen.flow += [run.flow.read(tokens)] if run.flow is not None else []
    return seen


def _pieces_of_others(run: Run, own: int) -> int:
    """How many more the process with the most has, where all must take part in each: then these weigh nothing."""
    if not run.sharded:
        return 0
    most = torch.tensor(own, device=run.accelerator.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most) - own


def _figures(run: Run, seen: _Seen, sums: list[float]) -> dict[str, float]:
    """Accuracies of the action tokens, of each tag's and of flow; errors of decoded actions where they were read."""
    out = {"action_accuracy": sums[_RIGHT] / sums[_SEEN]}
    for number, tag in enumerate(TAGS):
        if sums[_SEEN_TAGS + number]:
            name = tag.lower().replace(" ", "_")
            out[f"accuracy_{name}"] = sums[_RIGHT_TAGS + number] / sums[_SEEN_TAGS + number]
    if run.actions is not None and seen.actions:
        out |= run.actions.figures(seen.actions)
    return out | (run.flow.figures(seen.flow) if run.flow is not None else {})


def fewer_rows(rows: int, remedy: str) -> int:
    """Samples of the next attempt's pieces, after `rows` were too many. Raises EnvironmentProblem after one."""
    if rows == 1:
        raise EnvironmentProblem(f"one sample does not fit into the device's memory{remedy}")
    return rows // 2


def _add_up(run: Run, seen: _Seen) -> None:
    """Over all processes, in place; a parameter that only other processes used gets their gradient.

    From here on all use the smallest pieces that one had to: a checkpoint holds one number for all.
    """
    dist.all_reduce(seen.sums)
    shown = _gathered((seen.actions, seen.flow, run.rows))
    seen.actions = [entry for actions, _, _ in shown for entry in actions]
    seen.flow = [entry for _, flow, _ in shown for entry in flow]
    run.rows = min((rows for _, _, rows in shown if rows), default=0)
    if run.sharded:  # added up by the backward pass
        return
    kinds: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in run.parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        kinds.setdefault(parameter.dtype, []).append(parameter.grad)
    for gradients in kinds.values():
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
