"""Libraries that keep tables and handles of their own: cuFFT, cuSOLVER."""

from .registry import COPIES, program


@program("fft")
def fft(check):
    """Real and complex transforms, one of them of prime length (cuFFT)"""
    torch = check.torch
    signals = [check.put(torch.randn(4, length)) for length in (1000, 4096, 8191)]
    image = check.put(torch.randn(2, 96, 96))
    for _ in range(2):
        for signal in signals:
            spectrum = check.step(torch.fft.rfft, signal)
            check.save(spectrum, check.step(torch.fft.irfft, spectrum, n=signal.shape[-1]))
        check.save(check.step(torch.fft.fft2, image))


@program("svd", soft=COPIES + "; decompositions check an error code that is a kernel result")
def svd(check):
    """Singular values, inverse, solve, QR, symmetric eigenvalues (cuSOLVER, MAGMA)"""
    torch = check.torch
    a = check.put(torch.randn(48, 48) + 48 * torch.eye(48))
    b = check.put(torch.randn(48, 3))
    check.save(check.step(torch.matmul, a, b))
    if not check.kernels:
        return
    for _ in range(2):
        check.save(check.step(torch.linalg.svdvals, a))
        check.save(check.step(torch.linalg.inv, a))
        check.save(check.step(torch.linalg.solve, a, b))
        check.save(*check.step(torch.linalg.qr, a))
        check.save(check.step(torch.linalg.eigvalsh, a))
