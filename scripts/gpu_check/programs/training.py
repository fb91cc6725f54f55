"""Training, with a park between forward, backward and optimizer step."""

from .registry import program


@program("adamw", soft="the batches")
def adamw(check):
    """AdamW training, parked between forward, backward and step"""
    torch, nn = check.torch, check.torch.nn
    torch.backends.cudnn.deterministic = True
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8 * 14 * 14, 32),
        nn.LayerNorm(32),
        nn.Linear(32, 10),
    ]
    model = nn.Sequential(*layers).to(check.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        x, y = check.put(torch.randn(16, 1, 16, 16)), check.put(torch.randint(0, 10, (16,)))
        optimizer.zero_grad()
        loss = check.step(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)
        check.step(loss.backward)
        check.step(optimizer.step)
        check.save(loss)
    check.save(*model.parameters())
    for state in optimizer.state.values():
        check.save(state["exp_avg"], state["exp_avg_sq"])


@program("dropout", soft="the states of the random generator, which live on the host")
def dropout(check):
    """Dropout and random numbers: the generator's state goes on through parks, and can be saved and set back"""
    torch = check.torch
    x = check.put(torch.ones(64, 256))
    generator = torch.Generator(device=check.device).manual_seed(7)
    drop = torch.nn.Dropout(0.3)

    def draw():
        normal = torch.randn(1000, device=check.device, generator=generator)
        chosen = torch.randperm(500, device=check.device, generator=generator)
        return drop(x), normal, chosen

    check.save(*check.step(draw))
    state = generator.get_state()
    first = check.step(draw)
    generator.set_state(state)
    second = check.step(draw)
    check.save(*first[1:], *second)
    if check.kernels:
        check.require(torch.equal(first[1].cpu(), second[1].cpu()), "a state that was set back draws other numbers")
    state = generator.get_state()
    check.park()
    check.same(generator.get_state(), state)
