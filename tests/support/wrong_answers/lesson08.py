"""Wrong answers to the exercises of lesson 08."""

WRONG = {
    "count-paths": [
        ("range(blocks + 1)", "range(1, blocks + 1)", "length 0"),
        ("range(blocks + 1)", "range(blocks)", "longest path"),
        (
            "[math.comb(blocks, length) for length in range(blocks + 1)]",
            "2**blocks",
            "number of all paths",
        ),
        ("math.comb(blocks, length)", "2**length", "*which* k"),
        ("math.comb(", "math.perm(", "order counts"),
        ("math.comb(blocks, length)", "math.comb(blocks, length) / 2**blocks", "fractions"),
    ],
    "second-moment": [
        ("(1 + scale**2) ** blocks", "(1 + scale) ** (2 * blocks)", "as if F(x) pointed along x"),
        ("(1 + scale**2) ** blocks", "(1 + scale) ** blocks", "squares must be"),
        ("(1 + scale**2) ** blocks", "1 + blocks * scale**2", "linearly"),
        ("(1 + scale**2) ** blocks", "1 + scale**2", "one block's factor"),
        ("(1 + scale**2) ** blocks", "2**blocks", "not squared, or not used"),
        ("** blocks", "** (blocks / 2)", "root"),
        ("return (1 + scale**2)", "(1 + scale**2)", "`return`"),
        ("** blocks", "** (blocks + 0.3)", "up to 5 %", "In the case blocks=6, scale="),
    ],
    "gradient-by-depth": [
        (
            "for gradient in gradients]",
            "for gradient in reversed(gradients)]",
            "begin with the first",
        ),
        ("states[:-1]", "states[1:]", "*outputs*"),
        (".pow(2).mean()", ".mean().pow(2)", "square first, then average"),
        ("states[:-1], upstream", "states[:-1], torch.ones_like(upstream)", "`upstream` is not"),
        ("for gradient in gradients]", "for gradient in states[:-1]]", "on its way forward"),
        ("states[:-1]", "states", "one entry too many"),
        (".mean()", ".sum()", "sums of squares"),
        ("gradient.pow(2).mean()", "gradient.norm()", "norms"),
        ("gradient.pow(2).mean()", "gradient.mean()", "signs cancel"),
        ("gradient.pow(2).mean()", "gradient.pow(2).mean().sqrt()", "roots"),
        (
            "x.detach().clone().requires_grad_()",
            "x",
            "stopped with RuntimeError",
            "torch.autograd.grad",
        ),
    ],
    "batch-norm-backward": [
        ("(g - constant - along_x)", "g", "treated as constants"),
        ("(g - constant - along_x)", "(g - along_x)", "term of the mean is missing"),
        ("(g - constant - along_x)", "(g - constant)", "term of the variance is missing"),
        ("(g - constant - along_x)", "(g + constant + along_x)", "They are subtracted"),
        ("(g - constant - along_x)", "(g + constant - along_x)", "of the mean has the wrong sign"),
        ("(g - constant - along_x)", "(g - constant + along_x)", "variance has the wrong sign"),
        ("(g - constant - along_x)", "(g - constant - 2 * along_x)", "factor 2"),
        ("(g - constant - along_x)", "(g - constant - along_x / 2)", "half of the term"),
        ("gamma.view(1, -1, 1, 1) * grad_output", "grad_output", "γ is missing"),
        (
            {
                "root = (x.var(axes,": "root = (x.var((2, 3),",
                "x - x.mean(axes,": "x - x.mean((2, 3),",
            },
            "each image is normalised by itself",
        ),
        (
            {
                "constant = g.mean(axes": "constant = g.mean((2, 3)",
                "(g * x_hat).mean(axes": "(g * x_hat).mean((2, 3)",
            },
            "means are those of each image",
        ),
        ("unbiased=False", "unbiased=True", "unbiased variance is used"),
        ("+ eps).sqrt()", ").sqrt() + eps", "outside the root"),
        ("along_x) / root", "along_x)", "division by √(σ² + ε) is missing"),
        ("along_x) / root", "along_x) / root**2", "should be its root"),
        ("along_x) / root", "along_x) * root", "Divide"),
        (" + eps)", ")", "ε is missing"),
        (
            {"g.mean(axes": "g.sum(axes", "(g * x_hat).mean(axes": "(g * x_hat).sum(axes"},
            "sums are subtracted",
        ),
        ("along_x = x_hat * (g * x_hat)", "along_x = x * (g * x)", "x stands where"),
        ("(grad_output * x_hat).sum(axes)", "(grad_output * x).sum(axes)", "x is not normalised"),
        (
            "(grad_output * x_hat).sum(axes)",
            "(grad_output * x_hat).mean(axes)",
            "γ is used N·H·W times",
        ),
        ("(grad_output * x_hat).sum(axes)", "gamma * (grad_output * x_hat).sum(axes)", "γ itself"),
        ("(grad_output * x_hat).sum(axes)", "(grad_output * x / root).sum(axes)", "not subtracted"),
        ("grad_output.sum(axes)", "grad_output.mean(axes)", "β is used N·H·W times"),
        ("grad_output.sum(axes)", "gamma * grad_output.sum(axes)", "β is added after γ"),
        ("grad_gamma, grad_beta\n", "grad_beta, grad_gamma\n", "this is the gradient at γ"),
        ("/ root, grad_gamma, grad_beta", "/ root", "three gradients"),
        ("/ root, grad_gamma, grad_beta", "/ root, grad_gamma", "got 2"),
        (
            "grad_beta = grad_output.sum(axes)",
            "grad_beta = grad_output.sum(axes, keepdim=True)",
            "shape",
        ),
        ("x - x.mean(axes, keepdim=True)", "x.sub_(x.mean(axes, keepdim=True))", "changes what"),
        (
            """\
def batch_norm_backward(x, gamma, grad_output, eps=1e-5):
    x, gamma = x.clone().requires_grad_(), gamma.clone().requires_grad_()
    beta = torch.zeros_like(gamma).requires_grad_()
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    y = gamma.view(1, -1, 1, 1) * (x - mean) / (var + eps).sqrt() + beta.view(1, -1, 1, 1)
    return torch.autograd.grad(y, (x, gamma, beta), grad_output)
""",
            "to do without",
        ),
        (
            """\
def batch_norm_backward(x, gamma, grad_output, eps=1e-5):
    norm = nn.BatchNorm2d(len(gamma), eps=eps)
    x = x.clone().requires_grad_()
    norm(x).backward(grad_output)
    return x.grad, norm.weight.grad, norm.bias.grad
""",
            "to do without",
        ),
    ],
}
