// What a panel says when it has nothing to show: loading, failed, none of this here.

import { command as commandOf, fill, h } from './dom.js'

/** @param {string} what */
export function loading(what) {
  return h('p', { class: 'state', 'aria-busy': 'true' }, `Loading ${what} …`)
}

/**
 * @param {string} what could not be shown
 * @param {unknown} error
 * @param {() => void} [again] to try again
 */
export function failed(what, error, again) {
  return h('div', { class: 'state fault', role: 'alert' },
    h('p', {}, h('strong', {}, `${what.charAt(0).toUpperCase()}${what.slice(1)} cannot be shown. `), error instanceof Error ? error.message : String(error)),
    again ? h('button', { type: 'button', onclick: again }, 'Try again') : null)
}

/**
 * @param {string} text what is not here
 * @param {string} [command] that would make it
 */
export function none(text, command) {
  return h('p', { class: 'state' }, text, command ? [' It is made by ', commandOf(command), '.'] : null)
}

/**
 * Fill a place with what is made from an answer, and meanwhile, or without one, with a state.
 * @template T
 * @param {Element} place
 * @param {string} what it is
 * @param {() => Promise<T>} get
 * @param {(found: T) => import('./dom.js').Child | import('./dom.js').Child[]} make
 * @param {boolean} [still] leave what is there until then
 * @param {(error: any) => void} [refused] is told why not
 */
export async function when(place, what, get, make, still = false, refused = () => {}) {
  if (!still) fill(place, loading(what))
  place.setAttribute('aria-busy', 'true')
  try {
    fill(place, make(await get()))
  } catch (error) {
    if (/** @type {Error} */ (error).name === 'AbortError') return
    refused(error)
    fill(place, failed(what, error, () => when(place, what, get, make, false, refused)))
  } finally {
    place.removeAttribute('aria-busy')
  }
}
