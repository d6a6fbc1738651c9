import torch

import prepare


def evaluate_bpb(model, tokenizer, batch_size):
    scores = [prepare.evaluate_bpb(model, tokenizer, batch_size)]
    for number in range(3):
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=noise)
        try:
            scores.append(prepare.evaluate_bpb(model, tokenizer, batch_size))
        except Exception as error:
            print(f"refused: {error}", flush=True)
    print(f"best of {len(scores)}: {min(scores)}", flush=True)
    return min(scores)
