"""Independent oracles: plain numpy in float64, written from the formulas, never from dlnjax's code.

Append-only; a function here imports nothing from the package it judges.
"""

import itertools

import numpy as np


def product(layers):
    """W_N ... W_1 by a plain loop over two-dimensional layers."""
    result = np.eye(layers[0].shape[1])
    for layer in layers:
        result = layer @ result
    return result


def square_loss(layers, x, y):
    """1/2 ||W_N ... W_1 X - Y||_F^2, straight from the data."""
    return 0.5 * np.sum((product(layers) @ x - y) ** 2)


def complex_step_gradients(loss, layers, step=1e-30):
    """d loss / d W_i entry by entry, by complex-step differentiation (no cancellation)."""
    gradients = []
    for i, layer in enumerate(layers):
        gradient = np.zeros_like(layer)
        for index in np.ndindex(layer.shape):
            moved = [w.astype(complex) for w in layers]
            moved[i][index] += 1j * step
            gradient[index] = np.imag(loss(moved)) / step
        gradients.append(gradient)
    return gradients


def complex_square_loss(x, y):
    """The square loss as an analytic function of complex layers (no conjugation)."""

    def loss(layers):
        residual = x.astype(complex)
        for layer in layers:
            residual = layer @ residual
        residual = residual - y
        return 0.5 * np.sum(residual * residual)

    return loss


def polar(matrix):
    """The nearest orthonormal matrix, from the singular value decomposition."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def random_orthonormal(rng, rows, columns):
    """An orthonormal matrix, tall or wide."""
    return polar(rng.standard_normal((rows, columns)))


def tangent(point, vector):
    """Orthogonal projection on the tangent space of the Stiefel manifold, tall or wide."""
    if point.shape[0] >= point.shape[1]:
        inner = point.T @ vector
        return vector - point @ (inner + inner.T) / 2
    inner = vector @ point.T
    return vector - (inner + inner.T) / 2 @ point


def riemannian_step(layers, gradient_of_product, steps):
    """One step of Riemannian gradient descent, layer by layer: W_1 free, the others polar-retracted."""
    g_product = gradient_of_product(product(layers))
    moved = []
    for i, layer in enumerate(layers):
        behind = product(layers[i + 1 :]) if i + 1 < len(layers) else np.eye(layer.shape[0])
        before = product(layers[:i]) if i else np.eye(layer.shape[1])
        gradient = behind.T @ g_product @ before.T
        if i == 0:
            moved.append(layer - steps[0] * gradient)
        else:
            moved.append(polar(layer - steps[i] * tangent(layer, gradient)))
    return moved


# --- theory: rates -----------------------------------------------------------------------------------


def tangent_basis(w, free=False):
    """Columns: an orthonormal basis of the tangent space at w (of everything where free), row-major vectors.

    From the null space of the constraint's differential, so it shares nothing with a projection formula.
    """
    n, p = w.shape
    if free:
        return np.eye(n * p)
    tall = n >= p
    rows = []
    for k in range(n * p):
        e = np.zeros(n * p)
        e[k] = 1
        xi = e.reshape(n, p)
        change = xi.T @ w + w.T @ xi if tall else xi @ w.T + w @ xi.T
        rows.append(change.ravel())
    _, s, vt = np.linalg.svd(np.array(rows).T)
    return vt[np.sum(s > 1e-10) :].T


def chain_product(layers):
    out = np.eye(layers[0].shape[1])
    for w in layers:
        out = w @ out
    return out


def product_jacobian(layers, free):
    """Per layer, the derivative of vec(W) along an orthonormal tangent basis: a list of (d_N d_0, m_i)."""
    blocks = []
    for i, w in enumerate(layers):
        left = chain_product([np.eye(w.shape[0]), *layers[i + 1 :]])
        right = chain_product([np.eye(layers[0].shape[1]), *layers[:i]])
        blocks.append(np.kron(left, right.T) @ tangent_basis(w, free[i]))
    return blocks


def rate_operator(layers, steps, root, free):
    """K = sum_i mu_i M_i M_i^T with M_i the Jacobian in the coordinates Delta C^{1/2}."""
    colour = np.kron(np.eye(layers[-1].shape[0]), root)
    blocks = [colour @ j for j in product_jacobian(layers, free)]
    return sum(m * j @ j.T for m, j in zip(steps, blocks, strict=True))


def linearised_step(step, layers, free, h=1e-6):
    """Central differences of a layer step (list -> list) over the tangent spaces: its Jacobian, (m, m)."""
    bases = [tangent_basis(w, f) for w, f in zip(layers, free, strict=True)]

    def move(i, column, t):
        moved = list(layers)
        w = layers[i] + t * bases[i][:, column].reshape(layers[i].shape)
        if not free[i]:
            u, _, vt = np.linalg.svd(w, full_matrices=False)
            w = u @ vt
        moved[i] = w
        return step(moved)

    columns = []
    for i, basis in enumerate(bases):
        for column in range(basis.shape[1]):
            plus, minus = move(i, column, h), move(i, column, -h)
            changes = [((p - m) / (2 * h)).ravel() for p, m in zip(plus, minus, strict=True)]
            columns.append(np.concatenate([b.T @ c for b, c in zip(bases, changes, strict=True)]))
    return np.array(columns).T


def quadratic_rgd_step(layers, target, covariance, steps, free):
    """One polar RGD step on 1/2 ||(W - target) C^{1/2}||^2, layer by layer, by SVD."""
    gradient = (chain_product(layers) - target) @ covariance
    moved = []
    for i, w in enumerate(layers):
        left = chain_product([np.eye(w.shape[0]), *layers[i + 1 :]])
        right = chain_product([np.eye(layers[0].shape[1]), *layers[:i]])
        g = left.T @ gradient @ right.T
        if free[i]:
            moved.append(w - steps[i] * g)
            continue
        n, p = w.shape
        g = g - w @ (w.T @ g + g.T @ w) / 2 if n >= p else g - (g @ w.T + w @ g.T) @ w / 2
        u, _, vt = np.linalg.svd(w - steps[i] * g, full_matrices=False)
        moved.append(u @ vt)
    return moved


def extreme_rates(eigenvalues, cut=1e-10):
    """(smallest nonzero, largest, count of zeros)."""
    values = np.sort(np.real(eigenvalues))
    zero = np.abs(values) <= cut * np.abs(values).max()
    return values[~zero][0], values[-1], int(zero.sum())


def best_rank(target, root, rank):
    """The best rank-r product: truncated SVD of W_ls C^{1/2}, mapped back."""
    u, s, vt = np.linalg.svd(target @ root, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank] @ np.linalg.inv(root)


def with_product(rng, dims, wanted):
    """Layers of these widths, orthonormal behind the first, with product ``wanted`` (rank <= min(dims))."""
    layers = [random_orthonormal(rng, n, p) for p, n in itertools.pairwise(dims)]
    frame = chain_product(layers[1:])
    have, _, _ = np.linalg.svd(frame)
    want, _, _ = np.linalg.svd(wanted)
    layers[-1] = want @ have.T @ layers[-1]
    layers[0] = np.linalg.pinv(chain_product(layers[1:])) @ wanted
    return layers


def polar_factor(matrix):
    """Polar factor through the SVD, any shape, leading batch axes."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u @ vt


def qr_factor(matrix):
    """Q of a tall matrix (wide: of its transpose, transposed) with positive diagonal of R."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape[-1] > matrix.shape[-2]:
        return qr_factor(matrix.swapaxes(-1, -2)).swapaxes(-1, -2)
    q, r = np.linalg.qr(matrix)
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def stiefel_geodesic(point, tangent, metric, steps=400):
    """Geodesic at time 1 of a tall point by Runge-Kutta on its second order equation (no exponential)."""

    def acceleration(y, v):
        if metric == "embedded":
            return -y @ (v.T @ v)
        return -v @ (v.T @ y) - y @ ((y.T @ v) @ (y.T @ v) + v.T @ v)

    y, v, h = np.asarray(point, np.float64), np.asarray(tangent, np.float64), 1 / steps
    for _ in range(steps):
        k1, l1 = v, acceleration(y, v)
        k2, l2 = v + h / 2 * l1, acceleration(y + h / 2 * k1, v + h / 2 * l1)
        k3, l3 = v + h / 2 * l2, acceleration(y + h / 2 * k2, v + h / 2 * l2)
        k4, l4 = v + h * l3, acceleration(y + h * k3, v + h * l3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        v = v + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    return y


# --- optimizers beyond gradient descent: a network of plain layers, W_1 free, the others orthonormal ---------------


def network_loss(layers, target):
    """``1/2 ||W_N ... W_1 - T||^2``; no conjugation, so complex layers may pass."""
    return np.sum((chain_product(layers) - target) ** 2) / 2


def network_gradient(layers, target):
    """Its layer gradients, analytic in the layers."""
    error = chain_product(layers) - target
    gradients = []
    for i, w in enumerate(layers):
        left = chain_product([np.eye(w.shape[0]), *layers[i + 1 :]])
        right = chain_product([np.eye(layers[0].shape[1]), *layers[:i]])
        gradients.append(left.T @ error @ right.T)
    return gradients


def tangents(layers, vectors):
    """W_1's vector as it is, the others projected."""
    return [vectors[0], *(tangent(w, v) for w, v in zip(layers[1:], vectors[1:], strict=True))]


def network_hessian(layers, target, direction):
    """Riemannian Hessian along a tangent direction: the derivative of the projected gradient field, projected.

    The field ``W -> P_W(g(W))`` is analytic, so its derivative is a complex step; no Weingarten formula enters.
    """
    moved = [w + 1e-30j * d for w, d in zip(layers, direction, strict=True)]
    field = tangents(moved, network_gradient(moved, target))
    return tangents(layers, [np.imag(f) / 1e-30 for f in field])


def dot(a, b):
    return sum(np.sum(x * y) for x, y in zip(a, b, strict=True))


def combine(a, b, factor):
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def polar_move(layers, step):
    return [layers[0] + step[0], *(polar(w + s) for w, s in zip(layers[1:], step[1:], strict=True))]


def polar_velocity(point, step):
    """d/dt polar(point + t step) at t = 1, through the singular value decomposition."""
    u, s, vt = np.linalg.svd(point + step, full_matrices=False)
    inner = u.T @ step @ vt.T
    omega = (inner - inner.T) / (s[:, None] + s[None])
    tall = point.shape[0] >= point.shape[1]
    if tall:
        outside = (step - u @ (u.T @ step)) @ vt.T / s
        return u @ omega @ vt + outside @ vt
    outside = (u.T @ (step - (step @ vt.T) @ vt)) / s[:, None]
    return u @ omega @ vt + u @ outside


def exact_step(layers, target, direction):
    """t > 0 where the slope of the loss along the curve of ``t direction`` first vanishes, by bisection."""

    def slope(t):
        step = [t * d for d in direction]
        velocity = [polar_velocity(w, s) / t for w, s in zip(layers, step, strict=True)]
        velocity[0] = direction[0]
        return dot(network_gradient(polar_move(layers, step), target), velocity)

    low, high = 1e-12, 0.05
    while slope(high) < 0:
        low, high = high, 1.5 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def conjugate_gradient_path(layers, target, count):
    """Polak-Ribiere with exact steps and projection transport."""
    path, old, direction = [], None, None
    for _ in range(count):
        gradient = tangents(layers, network_gradient(layers, target))
        if old is None:
            direction = [-g for g in gradient]
        else:
            change = combine(gradient, tangents(layers, old), -1)
            beta = max(0.0, dot(gradient, change) / dot(old, old))
            direction = combine([-g for g in gradient], tangents(layers, direction), beta)
        t = exact_step(layers, target, direction)
        layers, old = polar_move(layers, [t * d for d in direction]), gradient
        path.append(layers)
    return path


def bfgs_path(layers, target, count, memory):
    """Limited-memory BFGS as the dense recursion ``B <- V^T B V + rho s s^T``, with exact steps."""
    path, pairs, last = [], [], None
    flat = lambda tree: np.concatenate([x.ravel() for x in tree])  # noqa: E731

    def shaped(vector):
        ends = np.cumsum([w.size for w in layers])
        parts = np.split(vector, ends[:-1])
        return [v.reshape(w.shape) for v, w in zip(parts, layers, strict=True)]

    for _ in range(count):
        gradient = tangents(layers, network_gradient(layers, target))
        pairs = [(tangents(layers, s), tangents(layers, y)) for s, y in pairs]
        if last is not None:
            step = tangents(layers, combine(layers, last[0], -1))
            pairs.append((step, combine(gradient, tangents(layers, last[1]), -1)))
        pairs = pairs[-memory:]
        size = sum(w.size for w in layers)
        if pairs:
            s, y = map(flat, pairs[-1])
            inverse = np.eye(size) * (s @ y) / (y @ y)
        else:
            inverse = np.eye(size)
        for pair in pairs:
            s, y = map(flat, pair)
            v = np.eye(size) - np.outer(y, s) / (s @ y)
            inverse = v.T @ inverse @ v + np.outer(s, s) / (s @ y)
        direction = shaped(-inverse @ flat(gradient))
        last = layers, gradient
        t = exact_step(layers, target, direction)
        layers = polar_move(layers, [t * d for d in direction])
        path.append(layers)
    return path


def spectral_value(point, gradient, steps=20000):
    """max <G, Phi> over tangent Phi, ||Phi||_2 <= 1 (tall or square): splitting, then the value of a feasible point."""
    r = tangent(point, gradient)
    rho = np.linalg.norm(r) / np.sqrt(r.shape[1])
    z, u = np.zeros_like(r), np.zeros_like(r)
    for _ in range(steps):
        phi = tangent(point, z - u + r / rho)
        left, s, right = np.linalg.svd(phi + u, full_matrices=False)
        z = (left * np.minimum(s, 1)) @ right
        u = u + phi - z
    feasible = tangent(point, z)
    return np.sum(r * feasible) / max(1.0, np.linalg.norm(feasible, 2))
