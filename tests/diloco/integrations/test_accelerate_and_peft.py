"""Loops of accelerate and models of peft in a swarm: three lines are enough, and a base stays where it is."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

import diloco
from diloco.errors import UserError
from diloco.integrations.data_order import seed_data
from tests.diloco.integrations.kit import settings, two_workers

pytest.importorskip("transformers", reason="pip install 'diloco[hf]'")
from accelerate import Accelerator, DataLoaderConfiguration
from peft import LoraConfig, PeftModel, get_peft_model

from diloco.integrations.peft import save_adapters
from tests.diloco.integrations.hf_kit import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21
WORDS = 1 << 15
"""So many that the base has pieces of its own: a piece of 1 MiB travels whole."""
ONE_BY_ONE = Lock()


def flat(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in module.parameters()]).clone()


def require_alike(home: Path, name: str) -> None:
    first, second = (load_file(home / each / name) for each in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[each], second[each]) for each in first)


@pytest.mark.parametrize("seedable", [False, True])
def test_three_lines_in_a_loop_of_accelerate_end_with_one_model_and_an_order_for_each(
    tmp_path: Path, seedable: bool
) -> None:
    def worker(
        swarm: diloco.Swarm, folder: Path
    ) -> tuple[Tensor, list[list[float]], list[float], diloco.Outer]:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=20)
        loader = DataLoader(torch.linspace(-1, 1, 32)[:, None], batch_size=4, shuffle=True)
        configuration = DataLoaderConfiguration(use_seedable_sampler=seedable)
        accelerator = Accelerator(cpu=True, dataloader_config=configuration)
        model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
        drawn, rates = [], []
        seed_data(loader, swarm.data_seed)
        outer = diloco.attach(model, optimizer, swarm, tokens_per_step=4, timeout_s=30.0)
        outer.schedule(schedule)
        while not outer.finished:
            for x in loader:
                drawn.append(x.flatten().tolist())
                rates.append(optimizer.param_groups[0]["lr"])
                accelerator.backward((model(x) - 3 * x).square().mean())
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        outer.save(folder / "model.safetensors")
        return flat(model), drawn, rates, outer

    first, second = two_workers(tmp_path, settings(rounds=2, every=5), worker)
    require_alike(tmp_path, "model.safetensors")
    assert first[1][:8] != second[1][:8]
    assert first[2][:10] == pytest.approx(second[2][:10])


def test_a_step_of_accelerate_that_accumulates_is_none(tmp_path: Path) -> None:
    with diloco.solo(settings(rounds=9)) as swarm:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
        model, optimizer = accelerator.prepare(model, optimizer)
        outer = diloco.attach(model, optimizer, swarm)
        for _ in range(6):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(1, 1)).sum())
                optimizer.step()
                optimizer.zero_grad()
        assert outer.step == 2


def adapted(base_seed: int, seed: int) -> Any:
    with ONE_BY_ONE:  # both workers are threads of one process, with one generator
        model = tiny(WORDS, base_seed)
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))


@pytest.mark.parametrize("same_base", [True, False])
def test_adapters_are_exchanged_and_a_base_goes_to_who_has_another_one(
    tmp_path: Path, same_base: bool, caplog: pytest.LogCaptureFixture
) -> None:
    base_bytes = sum(each.nbytes for each in tiny(WORDS).parameters())

    def worker(swarm: diloco.Swarm, folder: Path) -> int:
        model = adapted(0 if same_base or swarm.is_host else 1, seed=3 + swarm.is_host)
        trained = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        draw = torch.Generator().manual_seed(swarm.data_seed)
        with diloco.attach(model, optimizer, swarm, timeout_s=30.0) as outer:
            assert outer.num_parameters == sum(each.numel() for each in trained)
            while not outer.finished:
                ids = torch.randint(WORDS, (2, 8), generator=draw)
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            save_adapters(outer, folder)
        return swarm.bytes_received + swarm.bytes_sent

    moved = two_workers(tmp_path, settings(rounds=2, every=2), worker)
    assert (max(moved) < base_bytes / 2) is same_base
    require_alike(tmp_path, "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(tiny(WORDS), tmp_path / "a")
    assert any("lora_" in name and bool(each.any()) for name, each in loaded.named_parameters())
    assert ("is another one than was loaded here" in caplog.text) is not same_base


def test_what_has_no_adapters_is_saved_otherwise(tmp_path: Path) -> None:
    with diloco.solo(settings()) as swarm:
        model = nn.Linear(1, 1)
        outer = diloco.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), swarm)
        with pytest.raises(UserError, match=r"Linear is no model of peft: outer.save\(path\) writes it"):
            save_adapters(outer, tmp_path)
