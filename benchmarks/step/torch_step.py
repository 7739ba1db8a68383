"""The step with PyTorch on one device, channels last. It needs an environment with PyTorch."""

import torch
from network import EPSILON, SLOPE, Case, case_from_arguments, report
from torch.nn import functional


def network(w: dict[str, torch.Tensor], x: torch.Tensor, levels: int) -> torch.Tensor:
    def block(x, name):
        for n in (1, 2):
            x = functional.conv3d(x, w[f"{name}_conv{n}/kernel"], padding="same")
            gamma, beta = w[f"{name}_norm{n}/gamma"], w[f"{name}_norm{n}/beta"]
            x = functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPSILON)
            x = functional.leaky_relu(x, SLOPE)
        return x

    skips = []
    for level in range(levels):
        if level:
            x = functional.max_pool3d(x, 2)
        x = block(x, f"down{level}")
        skips.append(x)
    for level in reversed(range(levels - 1)):
        name = f"up{level}_transposed"
        x = functional.conv_transpose3d(x, w[f"{name}/kernel"], w.get(f"{name}/bias"), stride=2)
        x = block(torch.cat([skips[level], x], 1), f"up{level}")
    return functional.conv3d(x, w["classes/kernel"], w.get("classes/bias"))


def main() -> None:
    case: Case = case_from_arguments()
    torch.set_num_threads(2)
    arrays, image, label = case.load()
    weights = {}
    for name, value in arrays.items():
        tensor = torch.tensor(value)
        if tensor.ndim == 5:
            tensor = tensor.permute(4, 3, 0, 1, 2).contiguous(memory_format=torch.channels_last_3d)
        weights[name] = tensor.requires_grad_()
    x = torch.tensor(image).permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)
    y = torch.tensor(label).long()
    optimizer = torch.optim.SGD(weights.values(), lr=1e-6)

    def run() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(weights, x, case.levels), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    report(run, case.steps)


if __name__ == "__main__":
    main()
