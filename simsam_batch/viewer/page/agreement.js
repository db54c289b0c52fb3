// How the masks of two runs agree: of those on a page at once, of all by a job that can be stopped.

import { ask, tell } from './asking.js'
import { fill, h, say, shown } from './dom.js'
import { failed } from './states.js'

const POLL_MS = 700

/**
 * The panel about the agreement of all images of a filter.
 * @param {object} given
 * @param {import('./main.js').View} given.view
 * @param {string} given.stage
 * @param {string} given.q the filter
 * @param {any} given.found of `api/compare`
 * @param {boolean} given.sorted whether the lowest is first already
 * @param {string} given.lowest address of the list with the lowest first
 * @param {boolean} given.asks whether the list rests on it
 * @param {() => import('./dom.js').Child | import('./dom.js').Child[]} given.bars its histogram
 * @param {() => Promise<void>} given.again show the list anew
 */
export function agreement({ view, stage, q, found, sorted, lowest, asks, bars, again }) {
  const { known, images, mean } = found.agreement
  const panel = h('section', { id: 'agreement', 'aria-label': 'Agreement of the masks' }, h('h2', {}, 'Agreement of the masks'))
  if (known >= found.filtered) {
    panel.append(...(images ? [
      h('p', {}, `IoU of the two masks of an image, ${shown(mean)} on average over ${shown(images)}. `, sorted ? null : h('a', { href: lowest }, 'Lowest first')),
      ...[bars()].flat().filter((each) => each instanceof Node)] : [h('p', {}, 'No image of the filter has it.')]),
    ...(known > images ? [h('p', { class: 'note' }, `${shown(known - images)} have none: a mask is missing, or their sizes differ.`)] : []))
    return panel
  }
  const place = h('div', {})
  panel.append(h('p', { class: asks ? '' : 'note' }, asks ? `It is known of ${shown(known)} of ${shown(found.filtered)} images: the list is of those, or has them first. ` : null,
    'IoU of the two masks of an image; once it is known of all, they are sorted and chosen by it too.'),
  h('button', { type: 'button', onclick: () => job(view, stage, q, place, again) }, known ? `Agreement of the other ${shown(found.filtered - known)}` : `Agreement of all ${shown(found.filtered)}`), place)
  return panel
}

/** Those of a page. @param {string} stage @param {Map<string, HTMLElement>} cells @param {AbortSignal} signal */
export async function agreementsOf(stage, cells, signal) {
  if (!cells.size) return
  try {
    const { values } = await ask('api/compare/agreement', { stage, rows: [...cells.keys()].join() }, signal)
    for (const [row, cell] of cells) fill(cell, shown(values[row]))
  } catch { for (const cell of cells.values()) fill(cell, 'not known') }
}

/** @param {import('./main.js').View} view @param {string} stage @param {string} q @param {HTMLElement} place @param {() => Promise<void>} again */
async function job(view, stage, q, place, again) {
  try {
    const { id } = await tell('POST', 'api/jobs', { kind: 'agreement', stage, q }, view.signal)
    const stop = h('button', { type: 'button', onclick: () => tell('DELETE', `api/jobs/${id}`) }, 'Stop')
    const bar = h('progress', { max: 1, value: 0, 'aria-label': 'Agreement' }), count = h('span')
    fill(place, bar, ' ', count, ' ', stop)
    for (;;) {
      const at = await ask(`api/jobs/${id}`, {}, view.signal)
      if (at.finished) {
        if (at.error) { fill(place, failed('The agreement', at.error, () => job(view, stage, q, place, again))); return }
        say(at.stopped ? `Stopped after ${shown(at.done)} of ${shown(at.total)}.` : `The masks of ${shown(at.values.images)} images agree by an IoU of ${shown(at.values.mean)} on average.`)
        await again()
        const next = /** @type {HTMLElement | null} */ (document.querySelector('#agreement a, #agreement button, #agreement input'))
        next?.focus({ preventScroll: true })
        return
      }
      bar.max = Math.max(1, at.total)
      bar.value = at.done
      fill(count, `${shown(at.done)} of ${shown(at.total)}`)
      await new Promise((done) => setTimeout(done, POLL_MS))
    }
  } catch (error) {
    if (/** @type {Error} */ (error).name !== 'AbortError') fill(place, failed('The agreement', error, () => job(view, stage, q, place, again)))
  }
}
