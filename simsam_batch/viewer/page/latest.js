// Questions of which the latest counts: one at a time, those between are never asked, and answers are held.

/** @template T */
export class Latest {
  /**
   * @param {(key: string) => Promise<T>} ask
   * @param {() => void} ready an answer has come, or a fault
   * @param {number} [most] answers held
   */
  constructor(ask, ready, most = 64) {
    this.ask = ask
    this.ready = ready
    this.most = most
    /** @type {Map<string, T>} */
    this.held = new Map()
    /** What was asked for last and is there, to be shown meanwhile. @type {{key: string, value: T} | null} */
    this.last = null
    /** @type {{key: string, error: unknown} | null} */
    this.fault = null
    /** @type {string | null} */
    this.wanted = null
    this.going = false
  }

  /** The answer to a key; null while it is on its way. @param {string} key @returns {T | null} */
  get(key) {
    if (this.fault?.key !== key) this.fault = null
    const value = this.held.get(key)
    if (value === undefined) {
      this.wanted = key
      this.#next()
      return null
    }
    this.wanted = null
    this.held.delete(key)
    this.held.set(key, value)
    this.last = { key, value }
    return value
  }

  /** Ask again what could not be answered. */
  again() {
    this.fault = null
    this.#next()
    this.ready()
  }

  async #next() {
    const key = this.wanted
    if (this.going || key === null || this.fault?.key === key) return
    this.going = true
    try {
      this.held.set(key, await this.ask(key))
      if (this.held.size > this.most) this.held.delete(/** @type {string} */ (this.held.keys().next().value))
      if (this.wanted === key) this.wanted = null
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'AbortError') return
      this.fault = { key, error }
    } finally {
      this.going = false
    }
    this.ready()
    this.#next()
  }
}
