/* Stochastic gradient descent over flat vectors, as torch.optim.SGD without dampening, and the check before it. */

DEVICE int is_not_finite(float value) { return !(value - value == 0.0f); }

/* Threads that find something write the same value: no order among them matters. */
KERNEL_NAMED(finite_check, FiniteCheck) {
    int found = 0;
    for (wide item = grid_thread(); item < a.count; item += grid_threads()) found |= is_not_finite(a.values[item]);
    if (found) *a.not_finite = 1;
}

/* buffer = momentum * buffer + (g + decay * p); p -= rate * buffer. Elements at factor 0 stay untouched, momentum and all. */
KERNEL_NAMED(sgd_step, SgdStep) {
    if (a.not_finite != 0 && *a.not_finite) return;
    for (wide item = grid_thread(); item < a.count; item += grid_threads()) {
        float factor = 1.0f;
        if (a.ranges != 0) {
            int range = 0;
            while (range + 1 < a.range_count && a.ranges[range].end <= item) range++;
            factor = a.ranges[range].factor;
        }
        if (factor == 0.0f) continue;
        const float parameter = a.parameters[item];
        const float moved = a.momentum_factor * a.momentum[item] + (a.gradient[item] + a.decay * parameter);
        a.momentum[item] = moved;
        a.parameters[item] = parameter - a.rate * factor * moved;
    }
}
