// Affinity of one patch to all, from the eigenvectors that a run stores: how much more often than by chance.

/**
 * @typedef {object} Eigen
 * @property {ArrayLike<number>} vectors (K, N) one after the other, the constant one first
 * @property {number[]} values (K,) ascending, the first 0
 * @property {number} count N
 */

/**
 * `lift_t(i, j) = sum_k (1 - mu_k)^t v_k(i) v_k(j) / v_0^2` of one patch i; 1 is chance, what is negative counts as 0.
 * @param {Eigen} eigen @param {number} patch i @param {number} steps t @param {number} [most] eigenvectors used
 * @returns {Float64Array} (N,)
 */
export function liftRow({ vectors, values, count }, patch, steps, most = values.length) {
  const found = new Float64Array(count)
  const scale = 1 / squareOfConstant(vectors, count)
  for (let k = 0; k < Math.min(most, values.length); k++) {
    const from = k * count
    const weight = (1 - values[k]) ** steps * vectors[from + patch] * scale
    for (let j = 0; j < count; j++) found[j] += weight * vectors[from + j]
  }
  for (let j = 0; j < count; j++) if (!(found[j] > 0)) found[j] = 0
  return found
}

/** Mean square of the constant eigenvector. @param {ArrayLike<number>} vectors @param {number} count */
function squareOfConstant(vectors, count) {
  let sum = 0
  for (let j = 0; j < count; j++) sum += vectors[j] ** 2
  return sum / count || 1
}

/** The value that a share of all is not above. @param {ArrayLike<number>} values @param {number} share */
export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort()
  const at = share * (sorted.length - 1)
  const low = Math.floor(at)
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low])
}
