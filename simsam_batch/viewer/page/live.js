// Any point of a pair's source: where it goes in the target, asked while one waits.

import { askLive } from './asking.js'
import { fill, h, say, shown, svg } from './dom.js'

const STEPS = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })

/**
 * @param {import('./main.js').View} view
 * @param {any} pair
 * @param {(answer: any) => void} changed is called with each answer, and with null when there is none any more
 */
export function anywhere(view, pair, changed) {
  const { on, why } = view.about.live
  const [width, height] = pair.source_size ?? [1, 1]
  const words = h('p', { class: on ? '' : 'muted', role: 'status' }, on
    ? 'Click anywhere in the source, or move the cross by arrows (Shift: further) and press Enter: its best match in the target.'
    : `The match of any other point cannot be asked: ${why}.`)
  let point = [Math.round(width / 2), Math.round(height / 2)]
  /** @type {any} */
  let answer = null
  let asked = 0

  async function match() {
    const mine = ++asked
    try {
      const body = { pair: pair.pair, x: point[0], y: point[1], ...(view.address.query.stage ? { stage: view.address.query.stage } : {}) }
      const found = await askLive('api/live/match', body, view.signal, (busy) => fill(words, busy))
      if (mine !== asked) return
      answer = found
      const told = `${shown(point[0], 1)}, ${shown(point[1], 1)} is found at ${shown(found.x, 1)}, ${shown(found.y, 1)}: similarity ${shown(found.similarity)}, ${found.mutual ? 'mutual' : 'not mutual: the place found is more like another point'}.`
      fill(words, told)
      say(told)
      changed(found)
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'AbortError' || mine !== asked) return
      answer = null
      fill(words, h('span', { class: 'fault' }, /** @type {Error} */ (error).message))
      changed(null)
    }
  }

  return {
    on,
    words,
    /** Show no answer any more. */
    forget() {
      asked++
      answer = null
    },
    /** A click on the source. @param {MouseEvent} event @param {SVGSVGElement} drawing @param {number} scale of the source in it */
    pressed(event, drawing, scale) {
      const matrix = drawing.getScreenCTM()
      if (!on || !matrix) return
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse())
      point = [at.x / scale - 0.5, at.y / scale - 0.5]
      match()
    },
    /** The cross, and the place that was found. @param {number} scale of the source @param {(x: number, y: number) => number[]} place in the target */
    marks(scale, place) {
      if (!on) return null
      const middle = () => [(point[0] + 0.5) * scale, (point[1] + 0.5) * scale]
      const cross = svg('path', { d: shape(middle()) })
      const found = answer ? place(answer.x, answer.y) : null
      const marks = svg('g', {
        class: 'live', tabindex: 0, role: 'button', 'aria-label': 'cross in the source: arrows move it, Enter finds it in the target',
        onkeydown: (/** @type {any} */ event) => {
          if (event.key === 'Enter' || event.key === ' ') match()
          else if (STEPS[event.key]) {
            const far = (event.shiftKey ? 5 : 1) * Math.max(1, Math.max(width, height) / 100)
            const [dx, dy] = STEPS[event.key]
            point = [Math.min(width - 1, Math.max(0, point[0] + dx * far)), Math.min(height - 1, Math.max(0, point[1] + dy * far))]
            cross.setAttribute('d', shape(middle()))
          } else return
          event.preventDefault()
          event.stopPropagation()
        },
      }, cross, found ? [svg('line', { x1: middle()[0], y1: middle()[1], x2: found[0], y2: found[1] }), svg('circle', { cx: found[0], cy: found[1], r: 8 })] : null)
      return marks
    },
  }
}

/** @param {number[]} middle */
function shape([x, y]) {
  return `M${x - 14} ${y}h28M${x} ${y - 14}v28`
}
