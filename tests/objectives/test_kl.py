"""The KL to a reference: exact values and gradients, and estimates of the right mean."""

import torch

from seqrl.objectives import kl_divergence, kl_k1, kl_k3


# Broken by KL(π_ref ‖ π), or by logits that are not normalised.
def test_exact_by_hand():
    """Golden: π = (½, ½), π_ref = (¼, ¾): ½ log 2 + ½ log(2/3); any constant may be added to logits."""
    p, q = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    expected = (0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()).double()
    torch.testing.assert_close(kl_divergence(p.log() + 3, q.log() - 7), expected, rtol=1e-6, atol=0)
    logits = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kl_divergence(logits, logits.clone()), torch.zeros(3, 4))  # exactly


# Broken by `log_prob - reference` without the condition: −∞ − (−∞) is NaN.
def test_what_is_never_said_has_no_part():
    logits = torch.tensor([1.0, 2.0, -torch.inf], requires_grad=True)
    reference = torch.tensor([0.5, 2.0, -torch.inf], requires_grad=True)
    found = kl_divergence(logits, reference)
    torch.testing.assert_close(found, kl_divergence(logits[:2], reference[:2]))
    found.backward()
    assert logits.grad.isfinite().all()
    assert reference.grad.isfinite().all()
    assert logits.grad[2] == 0
    assert kl_divergence(torch.zeros(2), torch.tensor([0.0, -torch.inf])) == torch.inf


# Broken by `log_prob > -torch.inf` for `prob > 0`: e⁻²⁰⁰ is 0 in float32, and 0 · ∞ is NaN.
def test_a_probability_too_small_to_be_a_number_has_no_part():
    logits = torch.tensor([1.0, 2.0, -200.0], requires_grad=True)
    found = kl_divergence(logits, torch.tensor([0.5, 2.0, -torch.inf]))
    torch.testing.assert_close(found, kl_divergence(logits[:2], torch.tensor([0.5, 2.0])))
    found.backward()
    assert logits.grad.isfinite().all()


def test_gradient():
    """Golden: dKL/dlogits = p (log p/q − KL)."""
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    q = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).log_softmax(0)
    found = kl_divergence(logits, q)
    found.backward()
    log_p = logits.detach().log_softmax(0)
    torch.testing.assert_close(logits.grad, log_p.exp() * (log_p - q - found.detach()))


# Broken by exchanging π and π_ref in either.
def test_estimates_have_the_kl_as_their_mean():
    """Golden: exact expectations over π, not draws; k3 is never below 0, k1 is."""
    generator = torch.Generator().manual_seed(3)
    log_p, log_q = (torch.randn(8, dtype=torch.float64, generator=generator).log_softmax(0) for _ in range(2))
    exact = kl_divergence(log_p, log_q)
    for estimate in (kl_k1, kl_k3):
        torch.testing.assert_close((log_p.exp() * estimate(log_p, log_q)).sum(), exact)
    assert (kl_k3(log_p, log_q) >= 0).all()
    assert (kl_k1(log_p, log_q) < 0).any()
    assert torch.equal(kl_k3(log_p, log_p.clone()), torch.zeros_like(log_p))


def test_gradients_of_the_estimates():
    """Golden: in the mean over π, k1's own gradient is 0, and k3's that of KL(π_ref ‖ π): p − q."""
    log_q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    logits = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    p = logits.detach().softmax(0)
    for estimate, expected in ((kl_k1, torch.zeros(3, dtype=torch.float64)), (kl_k3, p - log_q.exp())):
        logits.grad = None
        (p * estimate(logits.log_softmax(0), log_q)).sum().backward()
        torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=1e-9)
