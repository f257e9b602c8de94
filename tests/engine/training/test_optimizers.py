import torch
from torch import Tensor, nn

from sharpeye.training.optimizers import filter_noise, lpf_gradient, sam_gradient


def quadratic() -> tuple[nn.Linear, Tensor]:
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    return model, torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))


def test_sam_takes_the_gradient_at_the_ascended_point() -> None:
    model, hessian = quadratic()
    start = model.weight.detach().clone()
    sam_gradient(model, [model.weight], lambda: (model.weight @ hessian @ model.weight.T).sum() / 2, rho=0.3)
    gradient = start @ hessian
    expected = (start + 0.3 * gradient / gradient.norm()) @ hessian
    torch.testing.assert_close(model.weight.grad, expected)
    assert torch.equal(model.weight, start)


def test_lpf_takes_the_gradient_at_the_perturbed_point() -> None:
    model, hessian = quadratic()
    start = model.weight.detach().clone()
    noise = filter_noise(model.weight, 0.5, torch.Generator().manual_seed(3))
    lpf_gradient(
        [model.weight],
        lambda: (model.weight @ hessian @ model.weight.T).sum() / 2,
        0.5,
        torch.Generator().manual_seed(3),
    )
    torch.testing.assert_close(model.weight.grad, (start + noise) @ hessian)
    assert torch.equal(model.weight, start)


def test_noise_is_relative_to_each_filter() -> None:
    weight = torch.randn(4, 64, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 1, 10, 100]
    ).view(4, 1, 1, 1)
    noise = filter_noise(weight, 0.25, torch.Generator().manual_seed(1))
    ratio = noise.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(ratio, torch.full((4,), 0.25), rtol=0.05, atol=0)


def test_second_pass_of_sam_leaves_batch_norm_statistics() -> None:
    images = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    plain = nn.Sequential(
        *[
            type(m)(4, 4 if i == 0 else 1) if isinstance(m, nn.Linear) else nn.BatchNorm1d(4)
            for i, m in enumerate(model)
        ]
    )
    plain.load_state_dict(model.state_dict())
    plain(images)
    sam_gradient(model, list(model.parameters()), lambda: model(images).square().mean(), rho=1.0)
    for key in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        torch.testing.assert_close(model.state_dict()[key], plain.state_dict()[key])
