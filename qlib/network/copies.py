"""Copies of a network, and the weights in them that are computed from others, put there as they are."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from .inputs import one_line
from .operations import same_tensor


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode. Raises ``ValueError`` for what is not a module, or cannot be copied."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {type(model).__name__}")
    held = [value for module in model.modules() for value in vars(module).values()]
    # Empty dictionaries are not copied but made anew: it saves half the time
    copies: dict[int, object] = {id(d): OrderedDict() for d in held if type(d) is OrderedDict and not d}
    shared: dict[tuple, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        shared.setdefault(same_tensor(parameter), []).append(parameter)
    # One memory: one tensor
    for several in (parameters for parameters in shared.values() if len(parameters) > 1):
        copies |= dict.fromkeys(map(id, several), copy.deepcopy(several[0]))
    for nested in (False, True):
        tensors = pytree.tree_leaves([dict(vars(m)) for m in model.modules()]) if nested else held
        computed = {id(t): t.detach().clone() for t in tensors if isinstance(t, Tensor) and not t.is_leaf}
        try:
            return copy.deepcopy(model, {**copies, **computed}).eval()
        except Exception as error:
            problem = error
    raise ValueError(f"{type(model).__name__} cannot be copied: {one_line(problem)}") from problem


def compute_weights(model: nn.Module) -> bool:
    """Put ordinary parameters in the place of those that are computed: by a parametrization, or by a hook at
    every call. Whether there were any.
    """
    found = False
    made: dict[tuple, nn.Parameter] = {}  # by what they are computed from, so that tied ones stay tied
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            with torch.no_grad():
                values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
            sources = {name: tuple(map(id, p.parameters())) for name, p in module.parametrizations.items()}
            # On this copy alone: what torch removes, it removes from a class that the original shares.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module._load_state_dict_pre_hooks.clear()  # torch's, which cannot be pickled
            for name, value in values.items():
                same = made.setdefault(sources[name], nn.Parameter(value, requires_grad=False))
                own = same if torch.equal(same, value) else nn.Parameter(value, requires_grad=False)
                module.register_parameter(name, own)
            found = True
    for module in model.modules():
        own = (
            _plain_tensors(module)
            if type(module).__module__.startswith("torch.nn") and not module._forward_pre_hooks
            else {}
        )
        for name in {"weight", "bias"}.intersection(own):  # put there in the place of a parameter
            delattr(module, name)
            module.register_parameter(name, nn.Parameter(own[name].detach(), requires_grad=False))
        for key, hook in list(module._forward_pre_hooks.items()):
            before = _plain_tensors(module)
            if not before or key in module._forward_pre_hooks_with_kwargs:
                continue
            try:
                with torch.no_grad():
                    other_inputs = hook(module, ())
            except Exception:  # it looks at the inputs: tracing does it justice, or refuses it
                continue
            changed = {name: t for name, t in _plain_tensors(module).items() if t is not before.get(name)}
            if other_inputs is not None or not changed:
                continue
            del module._forward_pre_hooks[key]
            found = True
            for name, tensor in changed.items():
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
    return found


def _plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a module holds of tensors that are neither parameters nor buffers, as weights are that a hook
    computes.
    """
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
