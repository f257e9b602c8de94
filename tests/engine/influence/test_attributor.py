import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sharpeye.errors import InputError
from sharpeye.influence.attributor import FVMAttributor


def batches(seed: int, count: int = 30, classes: int = 3) -> DataLoader:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 6, dtype=torch.float64, generator=rng)
    labels = torch.randint(0, classes, (count,), generator=rng)
    return DataLoader(TensorDataset(images, labels), batch_size=8)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def test_it_is_influence_by_dense_algebra(model: nn.Module) -> None:
    attributor = FVMAttributor(model, "2", damping=0.3)
    attributor.cache(batches(1))

    def head(some: DataLoader) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images, labels = some.dataset.tensors
        features = nn.functional.pad(model[:2](images), (0, 1), value=1.0)
        p = model(images).softmax(1)
        return features, p, (p - nn.functional.one_hot(labels, 3))

    features, p, _ = head(batches(1))
    inputs = features.T @ features / len(features)
    outputs = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    hessian = torch.kron(outputs, inputs)
    damped = hessian + 0.3 * hessian.diagonal().mean() * torch.eye(len(hessian))

    def gradients(some: DataLoader) -> torch.Tensor:
        features, _, residuals = head(some)
        return torch.einsum("nc,nd->ncd", residuals, features).flatten(1)

    one, other = gradients(batches(2)), gradients(batches(3, count=11))
    expected = one @ torch.linalg.solve(damped, other.T)
    torch.testing.assert_close(attributor.attribute(batches(2), batches(3, count=11)), expected)
    own = (one * torch.linalg.solve(damped, one.T).T).sum(1)
    torch.testing.assert_close(attributor.self_attribute(batches(2)), own)


def test_it_has_the_interface_of_dattri() -> None:
    base = pytest.importorskip("dattri.algorithm.base")
    assert {*base.BaseAttributor.__abstractmethods__} <= {*dir(FVMAttributor)}


def test_what_is_no_linear_head_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="'1' is no linear layer of the model; these are: 0, 2"):
        FVMAttributor(model, "1")
    with pytest.raises(InputError, match="call cache"):
        FVMAttributor(model, "2").self_attribute(batches(0))
