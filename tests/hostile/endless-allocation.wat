;; Takes memory until there is no more.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable))
