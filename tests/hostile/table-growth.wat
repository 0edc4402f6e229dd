;; Makes its table of functions longer without end.
(module
  ;; @answers
  ;; @heap
  (table $table 1 funcref)
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (loop $more (drop (table.grow $table (ref.null func) (i32.const 1000))) (br $more)) unreachable))
