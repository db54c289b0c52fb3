// What each layer of a network attends to, in both images of a pair, for the point that was chosen.

import { askArray, url } from './asking.js'
import { fill, h, shown } from './dom.js'
import { rising } from './layers.js'

const MEAN = 'mean of the layers'

/**
 * Photographs of both images, each beside itself with the attention of every layer and their mean over it.
 * @param {import('./main.js').View} view
 * @param {any} pair
 */
export function attention(view, pair) {
  const { stage } = view.address.query
  const element = h('section', { class: 'attention', 'aria-label': 'Attention by layer' })
  let asked = 0

  return {
    element,
    /** @param {number | null} index of the point; null for none */
    async show(index) {
      const mine = ++asked
      if (!pair.layers.length || index === null) return fill(element)
      try {
        const { values, shape } = await askArray(`layers/pairs/${pair.pair}/${index}/layers`, { stage }, view.signal)
        if (mine !== asked) return
        const [, count, height, width] = shape
        const size = height * width
        fill(element, h('h2', {}, 'Attention by layer'), ['source', 'target'].map((end, at) => {
          const layers = pair.layers.map((/** @type {string} */ _, /** @type {number} */ layer) => values.subarray((at * count + layer) * size, (at * count + layer + 1) * size))
          const mean = Float32Array.from({ length: size }, (_, i) => layers.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each[i], 0) / count)
          const picture = url(`pairs/${pair.pair}/${end}.jpg`, { side: 256, stage, v: pair.digests[end] })
          const [w, high] = pair[`${end}_size`]
          const figure = (/** @type {string} */ title, /** @type {ArrayLike<number> | null} */ map) => {
            const most = map ? Array.from(map).reduce((a, b) => Math.max(a, b), 0) : null
            return h('figure', {},
              h('div', { class: 'over', style: { 'aspect-ratio': `${w} / ${high}` } }, h('img', { src: picture, alt: '' }), map && most ? rising(map, most, width, height) : null),
              h('figcaption', {}, h('bdi', { title }, short(title)), most === null ? null : h('span', { class: 'muted' }, Number.isFinite(most) && most > 0 ? ` up to ${shown(most)}` : ' nothing')))
          }
          return h('div', { role: 'group', 'aria-label': end }, h('h3', {}, end),
            figure('photograph', null), layers.map((/** @type {any} */ each, /** @type {number} */ layer) => figure(pair.layers[layer], each)), figure(MEAN, mean))
        }))
      } catch (error) {
        if (/** @type {Error} */ (error).name !== 'AbortError' && mine === asked) fill(element, h('p', { class: 'fault' }, /** @type {Error} */ (error).message))
      }
    },
  }
}

/** Of a layer's name what tells it from others: `up_blocks.1.attentions.0` is up 1.0. @param {string} layer */
function short(layer) {
  return layer.replace(/^(\w+?)_blocks?\.(\d+)?\.?attentions\.(\d+)$/, '$1 $2.$3')
}
