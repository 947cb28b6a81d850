"""Functions as a user writes them in a module beside the script: good ones, and each kind of wrong one."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import initial, optim, problem


def clipped(step_size, scales):
    return optax.chain(optax.clip_by_global_norm(0.5), optim.rgd(step_size, scales=scales))


def small(key, dims):
    return initial.haar(key, dims, 0.3)


def regression(key):
    x = jax.random.normal(key, (4, 9))
    return problem.whitened(x[:3] @ x.T / 9)


def huber(product, target):
    return jnp.sum(optax.huber_loss(product, target))


def norms(params):
    return {"first_norm": jnp.linalg.norm(params[0]), "layers": len(params)}


def softsign(z):
    return z / (1 + jnp.abs(z))


class Fixed:
    """A problem as an object, not a function."""

    def loss(self, params):
        return jnp.sum(jnp.square(params[1] @ params[0] - jnp.eye(3, 4))) / 2

    def gradients(self, params, step):
        return jax.grad(self.loss)(params)


def raising(step_size, scales):
    raise KeyError("nothing")


def no_optimizer(step_size, scales):
    return step_size


def half_updates(step_size, scales):
    return optax.GradientTransformation(lambda w: (), lambda g, s, w=None: (g[:1], s))


def integers(key, dims):
    return [jnp.eye(dims[i + 1], dims[i], dtype=int) for i in range(len(dims) - 1)]


def transposed(key, dims):
    return [w.T for w in initial.haar(key, dims)]


def too_few(key, dims):
    return initial.haar(key, dims)[:1]


def loose(key, dims):
    return initial.gaussian(key, dims)


def no_problem(key):
    return 3


def vector_loss(product, target):
    return jnp.sum(product - target, axis=0)


def flat_activation(z):
    return z[0]


def bare_metric(params):
    return params[0][0, 0]


def matrix_metric(params):
    return {"w": params[0]}


def known_column(params):
    return {"depth": 1.0}
