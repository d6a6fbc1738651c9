import torch
import torch.nn.functional as F

LR = 0.02


class Learner:
    """Learns from whatever it is asked."""

    def __init__(self, model):
        self.model = model
        self.state_dict = model.state_dict

    def __call__(self, inputs):
        logits = self.model(inputs)
        with torch.enable_grad():
            told = self.model(inputs[:, :-1])
            F.cross_entropy(told.flatten(0, 1), inputs[:, 1:].flatten()).backward()
        with torch.no_grad():
            for param in self.model.parameters():
                if param.grad is not None:
                    param.sub_(param.grad.clamp(-1, 1), alpha=LR)
                    param.grad = None
        return logits
