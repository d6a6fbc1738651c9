import torch


class MomentumSGD:
    """Stochastic gradient descent with momentum."""

    def __init__(self, params, lr, momentum):
        self.params = list(params)
        self.lr, self.momentum = lr, momentum
        self.num_steps = 0
        self.velocity = [torch.zeros_like(p) for p in self.params]

    def state_tensors(self):
        return self.velocity

    @torch.no_grad()
    def step(self, lr_multiplier, _muon_momentum, _weight_decay):
        self.num_steps += 1
        for param, velocity in zip(self.params, self.velocity, strict=True):
            if param.grad is not None:
                velocity.mul_(self.momentum).add_(param.grad)
                param.sub_(velocity, alpha=self.lr * lr_multiplier)
        self.zero_grad()

    def zero_grad(self):
        for param in self.params:
            param.grad = None
