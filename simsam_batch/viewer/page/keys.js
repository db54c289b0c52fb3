// Keys: what each does is said once, shown by `?`, off while somebody types, and can be switched off altogether.

import { fill, h } from './dom.js'

/**
 * @typedef {object} Key
 * @property {string} does in words
 * @property {(event: KeyboardEvent) => void} run
 */

/** @typedef {Record<string, Key>} Keys by `KeyboardEvent.key`; several for one action are separated by a space */

const STORED = 'simsam-keys-off'
/** @type {Keys} */
let always = {}
/** @type {Keys} */
let ofScreen = {}

/** Keys that work on every screen. @param {Keys} keys */
export function everywhere(keys) {
  always = keys
}

/** Keys of the screen that is shown; those of the last one are gone. @param {Keys} keys */
export function bind(keys) {
  ofScreen = keys
}

export function isOff() {
  return localStorage.getItem(STORED) === '1'
}

/** @param {EventTarget | null} target */
function types(target) {
  if (!(target instanceof HTMLElement)) return false
  if (target instanceof HTMLInputElement) return !['checkbox', 'radio', 'button'].includes(target.type)
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable
}

/** Whether a key presses what has the focus. @param {KeyboardEvent} event */
function presses(event) {
  if (!(event.target instanceof Element)) return false
  return event.key === ' ' ? event.target.matches('button, summary, input') : event.key === 'Enter' && event.target.matches('a, button, summary, input')
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  const open = /** @type {HTMLDialogElement} */ (document.getElementById('keys')).open
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isOff() || open) return
  // in a field a slider or a tree has keys of its own, and handles them before
  if (types(event.target) || presses(event)) return
  for (const keys of [ofScreen, always]) {
    for (const [names, key] of Object.entries(keys)) {
      if (names.split(' ').includes(event.key === ' ' ? 'Space' : event.key)) {
        event.preventDefault()
        key.run(event)
        return
      }
    }
  }
}

/** Begin to listen. */
export function listen() {
  document.addEventListener('keydown', pressed)
}

/** Show what the keys do. */
export function showKeys() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById('keys'))
  const lines = (/** @type {Keys} */ keys) => Object.entries(keys).map(([names, key]) =>
    h('tr', {}, h('th', { scope: 'row' }, names.split(' ').flatMap((name, i) => [i ? ' ' : '', h('kbd', {}, name)])), h('td', {}, key.does)))
  const off = h('input', { type: 'checkbox', id: 'keys-off', onchange: () => localStorage.setItem(STORED, off.checked ? '1' : '0') })
  off.checked = isOff()
  fill(dialog,
    h('h2', { id: 'keys-title' }, 'Keys'),
    h('table', {}, h('tbody', {}, lines(ofScreen), lines(always))),
    h('p', {}, off, ' ', h('label', { for: 'keys-off' }, 'switch keys off, for instance because a voice types them')),
    h('form', { method: 'dialog' }, h('button', {}, 'Close')))
  dialog.showModal()
}
